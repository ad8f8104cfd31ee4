import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.train.run_folder import Stage, StageLimits, TrainingError, save_weights, write_whole


class TickingClock:
    """One second passes at every look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def stage(folder: Path, limits: StageLimits) -> Stage:
    return Stage(folder, "teacher", limits, TickingClock(), quiet=True)


def test_a_stage_ends_after_its_steps(tmp_path: Path) -> None:
    steps = [tick.step for tick in stage(tmp_path, StageLimits(5)).ticks(dict)]
    assert steps == [0, 1, 2, 3, 4]


def test_a_stage_ends_early_when_its_time_is_spent(tmp_path: Path) -> None:
    steps = list(stage(tmp_path, StageLimits(1000, budget_s=10.0)).ticks(dict))
    assert len(steps) == 10
    assert steps[-1].progress == pytest.approx(0.9)


def test_a_stage_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    first = stage(tmp_path, StageLimits(10, save_every_s=2.0))
    for tick in first.ticks(lambda: {"weight": torch.ones(1) * first.step}):
        if tick.step == 6:
            break
    second = stage(tmp_path, StageLimits(10, save_every_s=2.0))
    payload = second.resume(torch.device("cpu"))
    assert payload is not None
    resumed_at = second.step
    assert 0 < resumed_at <= 6
    assert payload["weight"].item() == resumed_at
    assert [tick.step for tick in second.ticks(dict)] == list(range(resumed_at, 10))


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    broken = stage(tmp_path, StageLimits(1))
    broken.state_file.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        broken.resume(torch.device("cpu"))


def test_a_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_text("good")

    def fill_the_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="the disk is full"):
        write_whole(path, fill_the_disk)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_full_disk_keeps_the_last_good_file(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "state.pt"
    path.write_text("good")

    def write_through(_: Path) -> None:
        with full.open("wb") as device:
            device.write(b"x" * 100_000)

    with pytest.raises(TrainingError, match="the disk is full"):
        write_whole(path, write_through)
    assert path.read_text() == "good"


def test_weights_are_written_in_the_dtype_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.arange(3.0), "n": torch.tensor(4)}, torch.bfloat16)
    loaded = load_file(path)
    assert loaded["a"].dtype == torch.bfloat16
    assert loaded["n"].dtype == torch.int64


def test_reports_and_the_curve_appear_in_the_folder(tmp_path: Path) -> None:
    run = stage(tmp_path, StageLimits(3))
    for tick in run.ticks(dict):
        run.report(loss=1.0 / (tick.step + 1))
    run.draw_curve(("loss",))
    rows = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert (run.folder / "curve.png").stat().st_size > 1000
