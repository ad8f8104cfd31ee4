"""Several processes for one stream: the same frames as one, and nobody left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

import engine.cli as cli
from engine.asked import Credit, PromptPart, StreamSpec, TimedPrompt
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.engine import Engine
from engine.events import Admitted, ChunkReady
from engine.followers import Followers, devices_from
from engine.snapshot import Snapshot
from tests.documents import ROOT
from tests.fakes import tiny_test_model
from tests.server.small_model import write_small_model

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def until(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small")


def words(model: Path, *more: object) -> list[str]:
    return ["generate", "--model", str(model), "--dtype", "float32", *map(str, more)]


@pytest.mark.slow
def test_two_processes_make_the_frames_of_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [
        {"prompt": "a red ball", "name": "first", "seed": 1, "switches": [[0.6, "a green box"]]},
        {"prompt": "the blue cat", "name": "second", "seed": 2},
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, requests)))
    asked = words(model, "--requests", path, "--seconds", 2, "--batch", 2, "--json", "--out")
    assert cli.main([*asked, str(tmp_path / "one")]) == 0
    capsys.readouterr()
    done = subprocess.run(
        [sys.executable, "-m", "engine", *asked, str(tmp_path / "two"), "--tensor-devices", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["tensor_devices"] == 2
    assert [event["chunk"] for event in said["clips"][0]["switches"]] == [2]
    for name in ("first", "second"):
        one, two = (np.load(tmp_path / part / f"{name}.npz")["frames"] for part in ("one", "two"))
        assert one.shape == two.shape == (32, 96, 160, 3)
        assert ((one > 0) & (one < 255)).mean() > 0.1  # not all black and white
        # Measured: no value differs. Sums of another order may round one over an edge.
        assert np.abs(one.astype(int) - two).max() <= 1


def spec(**changes: object) -> StreamSpec:
    fields: dict[str, object] = {
        "session_id": "s", "prompts": (PromptPart("a red ball"),), "seed": 3, "width": 64,
        "height": 32, "fps": 16.0, "pacing": "asap", "num_frames": 9 + 12 * 3, "num_steps": 2,
        "timed_prompts": (TimedPrompt(10, (PromptPart("rain"),)),),
    }  # fmt: skip
    return StreamSpec(**{**fields, **changes})  # type: ignore[arg-type]


def engine_of(followers: Followers | None = None, seed: int = 0) -> Engine:
    costs, devices = CostTable({1: 0.01}, 0.001), 1 if followers is None else 2
    config = EngineConfig(memory_share=0.01, max_sessions=2, devices=devices)
    model = tiny_test_model(seed)
    if followers is None:
        return Engine(model, config, time.monotonic, costs)
    return Engine(
        model, config, time.monotonic, costs,
        make_generator=followers.make_generator, make_pool=followers.make_pool,
    )  # fmt: skip


def chunks(engine: Engine, count: int) -> list[np.ndarray]:
    """Make a stream's next chunks."""
    made: list[np.ndarray] = []
    while len(made) < count:
        for event in engine.step(time.monotonic()):
            if isinstance(event, ChunkReady):
                made.append(event.frames.numpy().astype(int))
                last = event.first_frame + event.num_frames - 1
                engine.apply(Credit("s", last), time.monotonic())
    return made


@contextmanager
def followers(told: list[str], exchange_s: float = 60.0) -> Iterator[Followers]:
    """This process and another one."""
    model = tiny_test_model(0)
    with Followers.start(model, 2, report=told.append, exchange_s=exchange_s) as started:
        yield started


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_is_afterwards_as_it_was_before(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if fails:

            def broken(*_: object) -> None:
                os.environ["NCCL_SOCKET_IFNAME"] = "lo"
                raise RuntimeError("nobody came")

            monkeypatch.setattr("engine.followers.meet", broken)
            with pytest.raises(RuntimeError, match="nobody came"), followers([]):
                pass
        else:
            with followers([]):
                assert torch.get_num_threads() == 1
                assert os.environ["GLOO_SOCKET_IFNAME"] != "mine"
        assert torch.get_num_threads() == 2
        assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
        assert "NCCL_SOCKET_IFNAME" not in os.environ
    finally:
        torch.set_num_threads(threads)


def test_a_snapshot_goes_from_two_devices_to_one_and_back() -> None:
    alone, told = engine_of(), []  # type: Engine, list[str]
    assert isinstance(alone.admit(spec(), 0.0), Admitted)
    expected = chunks(alone, 4)
    with followers(told) as started:
        pair = engine_of(started)
        assert isinstance(pair.admit(spec(), 0.0), Admitted)
        begun = chunks(pair, 2)
        taken = pair.snapshot("s")
        assert taken is not None
        left = chunks(pair, 2)
        again = engine_of()
        moved = Snapshot.from_bytes(taken.to_bytes())
        assert isinstance(again.admit(spec(), 0.0, moved), Admitted)
        third = chunks(again, 1)
        taken = again.snapshot("s")
        assert taken is not None
        assert isinstance(pair.admit(spec(), 0.0, taken), Admitted)
        fourth = chunks(pair, 1)
    for made in (begun + left, begun + third + fourth):
        assert max(np.abs(a - b).max() for a, b in zip(expected, made, strict=True)) <= 1
    assert not told


@linux
def test_the_end_of_a_followers_process_is_told_in_one_sentence() -> None:
    told: list[str] = []
    with followers(told) as started:
        engine = engine_of(started)
        os.kill(started.process_ids[0], signal.SIGKILL)
        assert isinstance(engine.admit(spec(), 0.0), Admitted)
        engine.step(time.monotonic())
        until(lambda: told)
    assert told == [
        "tensor device 1 of 2 is lost, its process ended by SIGKILL; its part of every stream is "
        "gone; start again"
    ]


@linux
def test_a_follower_that_hangs_is_not_waited_for_without_end() -> None:
    told: list[str] = []
    with followers(told, exchange_s=3.0) as started:
        engine = engine_of(started)
        os.kill(started.process_ids[0], signal.SIGSTOP)
        assert isinstance(engine.admit(spec(), 0.0), Admitted)
        engine.step(time.monotonic())
        os.kill(started.process_ids[0], signal.SIGKILL)
    (sentence,) = told
    assert sentence.startswith("2 tensor devices are out of step (")


def test_an_exchange_that_fails_while_closing_is_not_told(tmp_path: Path) -> None:
    told: list[str] = []
    with Followers(2, told.append, TemporaryDirectory(dir=tmp_path)) as closing:
        pass
    closing._out_of_step(RuntimeError("the connection is closed"))
    assert not told


@linux
@pytest.mark.slow
def test_a_killed_leader_leaves_no_follower_behind(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    asked = words(model, "--prompt", "a", "--seconds", 3000, "--out", out, "--tensor-devices", 2)
    leader = subprocess.Popen([sys.executable, "-m", "engine", *asked], cwd=ROOT)
    try:
        until(lambda: out.exists() or leader.poll() is not None)  # made when the engine is ready
        children = Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text().split()
        assert len(children) == 1
    finally:
        leader.kill()
        leader.wait()
    until(lambda: not any(alive(int(pid)) for pid in children))


def test_devices_that_are_not_there_are_refused_with_a_sentence() -> None:
    assert devices_from(torch.device("cpu"), 2) == [torch.device("cpu")] * 2
    there = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"this machine has {there} CUDA devices; choose at most"):
        devices_from(torch.device("cuda"), there + 2)
    with pytest.raises(ValueError, match=r"2 tensor devices on mps; .* choose 1 or another"):
        devices_from(torch.device("mps"), 2)
