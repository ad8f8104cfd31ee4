import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.train.denoiser import Denoiser
from models.train.export import entry_of
from models.train.recipe import UnrollRecipe
from models.train.recipes import first_light, smoke
from models.train.run import Run
from models.train.run_folder import Stage, StageLimits, TrainingError
from models.train.stages import run_stages
from models.train.streams import StreamBatch, StreamStore
from models.train.unroll import mismatch, train_unroll
from models.train.windows import Prompts

CPU = torch.device("cpu")
RECIPE = replace(
    smoke(),
    bfloat16=False,
    unroll=UnrollRecipe(StageLimits(60), batch=4, chunks=3, peak=3e-3, decay=0.9),
)


def streams(
    rows: int = 4, switch: int | None = 2, seed: int = 0, chunks: int = RECIPE.unroll.chunks
) -> StreamBatch:
    generator = torch.Generator().manual_seed(seed)
    frames = 3 * chunks
    size = (RECIPE.height // 8, RECIPE.width // 8)
    ids = torch.randint(3, 200, (rows, 2, RECIPE.text.text_len), generator=generator)
    return StreamBatch(
        latents=torch.randn(rows, 1, 16, *size, generator=generator).expand(-1, frames, *(-1,) * 3),
        cover=torch.rand(rows, frames, *size, generator=generator),
        prompts=Prompts(ids, torch.ones_like(ids)),
        switch=switch,
    )


def train(
    folder: Path,
    student: Denoiser,
    steps: int,
    switch: int | None = 2,
    chunks: int = RECIPE.unroll.chunks,
) -> list[float]:
    """Train on the same four streams; returns the reported mean errors."""
    limits = StageLimits(steps)
    recipe = replace(RECIPE, unroll=replace(RECIPE.unroll, limits=limits))
    stage = Stage(folder, "unroll", limits, time.monotonic, quiet=True)
    train_unroll(
        stage,
        recipe,
        student,
        lambda step: StreamStore(1, lambda: streams(switch=switch, chunks=chunks)),
        CPU,
    )
    lines = (folder / "unroll" / "log.jsonl").read_text().splitlines()
    kind = "early" if chunks == RECIPE.unroll.chunks else "late"
    return [json.loads(line)[kind] for line in lines]


def network() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(RECIPE, CPU)


def test_only_the_frames_that_were_made_are_compared() -> None:
    batch = streams()
    errors, changes = mismatch(batch.latents[:, -3:], batch, 0.0)
    assert errors.tolist() == [0.0] * 3
    assert changes.tolist() == [0.0] * 2


def test_an_error_that_stays_is_none_of_change() -> None:
    batch = streams()
    flickers = batch.latents.clone()
    flickers[:, ::2] += 1.0
    assert mismatch(batch.latents + 1.0, batch, 0.0)[1].max() < 1e-10
    torch.testing.assert_close(mismatch(flickers, batch, 0.0)[1], torch.ones(8))


def test_an_error_on_the_subject_counts_more() -> None:
    batch = streams()
    covered = replace(batch, cover=torch.zeros_like(batch.cover))
    covered.cover[:, :, 0, 0] = 1.0
    on, off = batch.latents.clone(), batch.latents.clone()
    on[..., 0, 0] += 1.0
    off[..., 1, 1] += 1.0
    ratio = mismatch(on, covered, 3.0)[0] / mismatch(off, covered, 3.0)[0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


@pytest.mark.parametrize(("switch", "chunks"), [(None, 3), (2, 3), (4, 6)])
def test_a_network_learns_the_streams_it_is_compared_with(
    tmp_path: Path, switch: int | None, chunks: int
) -> None:
    student = network()
    text = student.text.token_embedding.weight.detach().clone()
    errors = train(tmp_path, student, 60, switch, chunks)
    assert len(errors) == 3
    assert errors[-1] < 0.8 * errors[0]
    assert not torch.equal(text, student.text.token_embedding.weight)


def test_a_stopped_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    train(tmp_path, network(), 20)
    errors = train(tmp_path, network(), 40)
    assert len(errors) == 2
    assert errors[1] < errors[0]


def test_recipes_whose_prompts_leave_things_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="use --recipe first-light"):
        run_stages(Run(tmp_path, smoke(), CPU, time.monotonic), ("unroll",))


def test_a_model_is_served_at_the_levels_it_learned_at() -> None:
    recipe = first_light()
    levels = entry_of(recipe, "unroll").sampler.schedule().sigmas
    assert levels == recipe.unrolled.schedule().sigmas
    assert levels != entry_of(recipe, "teacher").sampler.schedule().sigmas
    assert entry_of(recipe, "unroll").sampler.fresh_noise
