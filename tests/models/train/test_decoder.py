"""The decoder's own stage: what is cut for it, what it learns, whom it leaves alone."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.taehv import Taehv
from models.train.autoencoder import reconstruction_loss
from models.train.decoder import Filmed, cut, train_decoder
from models.train.recipe import DecoderRecipe, smoke
from models.train.run import Run
from models.train.run_folder import Stage, StageLimits, TrainingError
from models.train.stages import run_stages

CPU = torch.device("cpu")
RECIPE = DecoderRecipe(
    StageLimits(100), batch=3, frames=2, warm=2, crop=16, refresh_every=1000, peak=5e-3, decay=0.9
)


def numbered(streams: int = 2, frames: int = 6, rows: int = 3, columns: int = 4) -> Filmed:
    """Streams whose latents and pixels say when and where they are."""
    place = torch.arange(rows)[:, None] * columns + torch.arange(columns)
    when = torch.arange(frames)[:, None, None, None]
    own = (100.0 * when + place).expand(streams, frames, 16, rows, columns)
    number = torch.cat((torch.zeros(1), torch.arange(4, 4 * frames) // 4))
    pixels = place.repeat_interleave(8, 0).repeat_interleave(8, 1)
    pixels = (12 * number[:, None, None, None] + pixels).expand(streams, -1, 3, -1, -1)
    return Filmed(pixels.to(torch.int8), own + 0.5, own)


@pytest.mark.parametrize("own", [False, True])
def test_a_window_shows_the_pixels_of_its_last_latents(own: bool) -> None:
    footage, draw = numbered(), torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(60):
        window = cut(footage, RECIPE, own, draw)
        latents = window.latents[:, :, 0] - (0.0 if own else 0.5)
        shown = (window.pixels[:, :, 0, ::8, ::8] * 127).round()
        when, place = latents // 100, latents % 100
        first = int(when[0, 0, 0, 0])
        frames = window.pixels.shape[1]
        # The first latent of a stream is one frame; anywhere else the first two are for warming up.
        assert frames == (5 if len(when[0]) == 2 else 8)
        assert torch.equal(shown[:, -1] - 12 * when[:, -1], place[:, -1])
        assert torch.equal((shown[:, -4] - place[:, -1]) / 12, when[:, -1])
        starts.add(first)
    assert starts == {0, 1, 2}


def film(seed: int) -> Filmed:
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(4, 4, 16, 2, 2, generator=draw)
    # A picture of the latents: what the network made is half as strong as what the encoder did.
    small = latents[:, :, :3].repeat_interleave(4, 1)[:, 3:]
    wide = small.repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)
    return Filmed((wide * 127).round().to(torch.int8), latents, 0.5 * latents)


def codec() -> Taehv:
    torch.manual_seed(0)
    return Taehv(smoke().codec)


def train(folder: Path, steps: int) -> tuple[Taehv, list[dict[str, float]]]:
    recipe = replace(RECIPE, limits=StageLimits(steps))
    stage = Stage(folder, "decoder", recipe.limits, time.monotonic, quiet=True)
    finished = train_decoder(stage, recipe, codec(), lambda seed: lambda: film(seed), CPU, 5)
    lines = (folder / "decoder" / "log.jsonl").read_text().splitlines()
    return finished, [json.loads(line) for line in lines]


def test_the_decoder_learns_both_kinds_of_latents_and_the_encoder_stays(tmp_path: Path) -> None:
    finished, log = train(tmp_path, 200)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["own_db"] > log[0]["own_db"] + 1
    assert log[-1]["encoded_db"] > log[0]["encoded_db"] + 1
    before = codec().encoder.state_dict()
    assert all(torch.equal(w, before[name]) for name, w in finished.encoder.state_dict().items())


def test_a_stopped_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    train(tmp_path, 100)
    _, log = train(tmp_path, 150)
    assert [line["step"] for line in log] == [49, 99, 149]
    assert log[2]["loss"] < log[0]["loss"]


def test_movement_saved_up_for_one_frame_costs_more_where_changes_are_squared() -> None:
    even = torch.linspace(-1, 1, 9)[None, :, None, None, None].expand(1, 9, 3, 4, 4)
    jumps = even.clone()
    jumps[:, 1:4], jumps[:, 5:8] = even[:, :1], even[:, 4:5]
    mild = reconstruction_loss(jumps, even)
    assert reconstruction_loss(jumps, even, 16.0) > mild + 0.1
    assert torch.equal(reconstruction_loss(even, even, 16.0), reconstruction_loss(even, even))


def test_recipes_whose_prompts_leave_things_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"stage decoder .* use --recipe first-light"):
        run_stages(Run(tmp_path, smoke(), CPU, time.monotonic), ("decoder",))


def test_a_run_films_its_network_and_leaves_a_codec(tmp_path: Path) -> None:
    recipe = replace(smoke(), bfloat16=False)
    recipe = replace(recipe, data=replace(recipe.data, one_view=True))
    run = Run(tmp_path, recipe, CPU, time.monotonic, quiet=True)
    run_stages(run, ("tokenizer", "autoencoder", "text", "teacher", "decoder"))
    left = Taehv(recipe.codec)
    run.load(left, "decoder")
    before = Taehv(recipe.codec)
    run.load(before, "autoencoder")
    assert torch.equal(left.encoder[0].weight, before.encoder[0].weight)
    assert not torch.equal(left.decoder[1].weight, before.decoder[1].weight)
