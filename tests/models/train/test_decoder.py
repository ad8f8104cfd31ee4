"""The decoder's own stage: what is cut for it, what it learns, whom it leaves alone."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.taehv import Taehv
from models.train.autoencoder import liveliness_loss, reconstruction_loss
from models.train.decoder import Filmed, cut, train_decoder
from models.train.export import export
from models.train.recipe import DecoderRecipe
from models.train.recipes import smoke
from models.train.run import Run
from models.train.run_folder import Stage, StageLimits, TrainingError, save_weights
from models.train.stages import run_stages

CPU = torch.device("cpu")
RECIPE = DecoderRecipe(
    StageLimits(100),
    batch=3,
    frames=2,
    warm=2,
    crop=16,
    refresh_every=1000,
    liveliness_weight=2.0,
    peak=5e-3,
    decay=0.9,
)


def numbered(streams: int = 2, frames: int = 6, rows: int = 3, columns: int = 4) -> Filmed:
    """Streams whose latents and pixels say which stream they are of, when and where."""
    which = 60 * torch.arange(streams)[:, None, None, None, None]
    place = torch.arange(rows)[:, None] * columns + torch.arange(columns)
    when = torch.arange(frames)[:, None, None, None]
    own = (100.0 * when + which + place).expand(-1, -1, 16, -1, -1)
    number = torch.cat((torch.zeros(1), torch.arange(4, 4 * frames) // 4))
    pixels = place.repeat_interleave(8, 0).repeat_interleave(8, 1)
    pixels = (12 * number[:, None, None, None] - which + pixels).expand(-1, -1, 3, -1, -1)
    return Filmed(pixels.to(torch.int8), own + 0.5, own)


@pytest.mark.parametrize("own", [False, True])
def test_a_window_shows_the_pixels_of_its_last_latents(own: bool) -> None:
    footage, draw = numbered(), torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(60):
        window = cut(footage, RECIPE, own, draw)
        latents = window.latents[:, :, 0] - (0.0 if own else 0.5)
        shown = (window.pixels[:, :, 0, ::8, ::8] * 127).round()
        when, which, place = latents // 100, latents % 100 // 60 * 60, latents % 100 % 60
        first = int(when[0, 0, 0, 0])
        frames = window.pixels.shape[1]
        # The first latent of a stream is one frame; anywhere else the first two are for warming up.
        assert frames == (5 if len(when[0]) == 2 else 8)
        last = 12 * when[:, -1] - which[:, -1] + place[:, -1]
        assert torch.equal(shown[:, -1], last)
        assert torch.equal(shown[:, -4], last)
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
    log = folder / "decoder" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return finished, [json.loads(line) for line in lines]


def test_the_decoder_learns_both_kinds_of_latents_and_the_encoder_stays(tmp_path: Path) -> None:
    finished, log = train(tmp_path, 130)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["own_db"] > log[0]["own_db"] + 1
    assert log[-1]["encoded_db"] > log[0]["encoded_db"] + 1
    before = codec().encoder.state_dict()
    assert all(torch.equal(w, before[name]) for name, w in finished.encoder.state_dict().items())


def test_a_stopped_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    before, _ = train(tmp_path, 49)
    after, log = train(tmp_path, 50)
    assert [line["step"] for line in log] == [49]
    # One step further, from the average and not from the beginning.
    moved = (before.decoder[1].weight - after.decoder[1].weight).abs().mean()
    begun = (codec().decoder[1].weight - after.decoder[1].weight).abs().mean()
    assert 0 < moved < 0.2 * begun


def test_rain_that_stands_still_is_least_wrong_in_pixels_and_most_in_liveliness() -> None:
    draw = torch.Generator().manual_seed(0)

    def rain() -> torch.Tensor:
        drops = torch.rand(1, 9, 1, 32, 32, generator=draw) < 0.1
        return drops.float().expand(-1, -1, 3, -1, -1)

    seen, elsewhere = rain(), rain()
    still = seen.mean(dim=1, keepdim=True).expand_as(seen)
    assert reconstruction_loss(still, seen) < reconstruction_loss(elsewhere, seen)
    assert liveliness_loss(elsewhere, seen) < 0.5 * liveliness_loss(still, seen)
    assert liveliness_loss(seen, seen) == 0


def test_recipes_whose_prompts_leave_things_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"stage decoder .* use --recipe first-light"):
        run_stages(Run(tmp_path, smoke(), CPU, time.monotonic), ("decoder",))


def test_a_run_films_its_network_and_exports_the_decoder_that_learned_from_it(
    tmp_path: Path,
) -> None:
    recipe = replace(smoke(), bfloat16=False)
    recipe = replace(
        recipe,
        data=replace(recipe.data, one_view=True),
        unroll=replace(recipe.unroll, limits=StageLimits(1)),
    )
    run = Run(tmp_path, recipe, CPU, time.monotonic, quiet=True)
    run_stages(run, ("tokenizer", "autoencoder", "text", "teacher"))
    with pytest.raises(TrainingError, match=r"models\.train unroll"):
        run_stages(run, ("decoder",))
    run_stages(run, ("unroll", "decoder"))
    export(run, "unroll", tmp_path / "model", {})
    shipped = load_file(tmp_path / "model" / "codec.safetensors")
    learned, before = (load_file(run.finished(s)) for s in ("decoder", "autoencoder"))
    name = "decoder.1.weight"
    assert torch.equal(shipped[name], learned[name].to(torch.bfloat16))
    assert not torch.equal(learned[name], before[name])
    assert torch.equal(learned["encoder.0.weight"], before["encoder.0.weight"])

    before["encoder.0.weight"] += 1
    save_weights(run.finished("autoencoder"), before, torch.float32)
    with pytest.raises(TrainingError, match="another encoder"):
        export(run, "unroll", tmp_path / "model", {})


def test_flakes_that_lack_count_in_their_cells_and_in_the_picture_moved_ones_only_in_cells() -> (
    None
):
    def flakes(*cells: int) -> torch.Tensor:
        """A picture, then one with a flake in some of its sixteen cells."""
        grid = torch.zeros(1, 2, 1, 16)
        grid[:, 1, :, list(cells)] = 1.0
        return grid.view(1, 2, 1, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2)

    seen, elsewhere, fewer = flakes(0, 5, 10, 15), flakes(1, 6, 11, 12), flakes(0, 6)
    share = 1 / 16
    assert liveliness_loss(elsewhere, seen) == pytest.approx(8 * share)
    assert liveliness_loss(fewer, seen) == pytest.approx(4 * share + 2 * share)
    assert liveliness_loss(flakes(), seen) == pytest.approx(4 * share + 4 * share)
