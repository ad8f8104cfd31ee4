from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.tokenizer import SentencePieceTokenizer
from models.train.captions import train_tokenizer
from models.train.footage import Footage
from models.train.recipes import smoke
from models.train.streams import StreamBatch

RECIPE = smoke()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    path = tmp_path_factory.mktemp("footage") / "tokenizer.model"
    train_tokenizer(path, captions=2000)
    return SentencePieceTokenizer.from_file(path)


def shrunk(pixels: Tensor) -> Tensor:
    """Stand in for an encoder: the first picture alone, then the mean of every four."""
    later = pixels[:, 1:].unflatten(1, (-1, 4)).mean(dim=2)
    both = torch.cat((pixels[:, :1], later), dim=1)
    return functional.avg_pool2d(both.flatten(0, 1), 8).unflatten(0, both.shape[:2])


def test_a_first_chunk_has_its_subject_in_the_middle(tokenizer: SentencePieceTokenizer) -> None:
    made = Footage(RECIPE, CPU, 3).openings(40, shrunk, tokenizer)
    assert made.latents.shape == (40, 3, 3, 4, 8)
    assert made.cover.shape == (40, 3, 4, 8)
    columns = made.cover[:, 0].sum(dim=1)  # of the first picture, [40, 8]
    centre = (columns * torch.arange(8)).sum(1) / columns.sum(1)
    # All but circling ones, which begin beside it.
    assert ((centre - 3.5).abs() < 0.3).float().mean() > 0.6
    assert (centre - 3.5).abs().max() < 2.0


def test_items_tell_where_the_subject_is_in_every_latent(
    tokenizer: SentencePieceTokenizer,
) -> None:
    made = Footage(RECIPE, CPU, 5).items(6, shrunk, tokenizer)
    assert made.start_cover.shape == (6, 12, 4, 8)
    assert made.far_cover.shape == (6, 9, 4, 8)
    assert made.start.shape[:2] == (6, 12)
    assert made.far.shape[:2] == (6, 9)
    seen = made.start_cover.sum(dim=(2, 3))
    assert (seen[:, 0] > 1).all()  # every stream opens on its subject


def test_with_one_view_a_place_s_sky_depends_on_what_a_prompt_can_say(
    tokenizer: SentencePieceTokenizer,
) -> None:
    def skies(one_view: bool) -> int:
        recipe = replace(RECIPE, data=replace(RECIPE.data, one_view=one_view))
        corner = Footage(recipe, CPU, 7).openings(200, shrunk, tokenizer).latents[:, 0, :, 0, 0]
        return len((corner * 50).round().unique(dim=0))

    assert skies(False) > 150
    assert skies(True) < 90  # times of day, weathers and places


def test_scenes_are_the_same_for_the_same_seed(tokenizer: SentencePieceTokenizer) -> None:
    first, second = (Footage(RECIPE, CPU, 6).openings(3, shrunk, tokenizer) for _ in range(2))
    np.testing.assert_array_equal(first.latents.numpy(), second.latents.numpy())
    assert torch.equal(first.ids, second.ids)


def test_a_stream_turns_at_the_chunk_it_is_asked_to(tokenizer: SentencePieceTokenizer) -> None:
    recipe = replace(RECIPE, data=replace(RECIPE.data, one_view=True))

    def filmed(switch: int | None) -> StreamBatch:
        return Footage(recipe, CPU, 8).streams(5, 4, switch, shrunk, tokenizer)[1]

    steady, turned = filmed(None), filmed(2)
    assert steady.latents.shape == turned.latents.shape == (5, 12, 3, 4, 8)
    assert steady.cover.shape == (5, 12, 4, 8)
    assert torch.equal(steady.latents[:, :6], turned.latents[:, :6])
    assert (steady.latents[:, 6:] != turned.latents[:, 6:]).flatten(1).any(1).all()
    assert torch.equal(steady.prompts.ids[:, 0], steady.prompts.ids[:, 1])
    assert torch.equal(steady.prompts.ids[:, 0], turned.prompts.ids[:, 0])
    assert (turned.prompts.ids[:, 0] != turned.prompts.ids[:, 1]).any(1).all()
    assert (steady.switch, turned.switch) == (None, 2)


def test_lively_footage_moves_more_often(tokenizer: SentencePieceTokenizer) -> None:
    def moving(lively: bool) -> float:
        data = replace(RECIPE.data, one_view=True, lively=lively)
        made = Footage(replace(RECIPE, data=data), CPU, 9).openings(160, shrunk, tokenizer)
        return (made.cover[:, 0] != made.cover[:, 2]).flatten(1).any(1).float().mean().item()

    assert moving(True) > 1.2 * moving(False)


def test_lively_footage_moves_more_often_after_a_change_as_well(
    tokenizer: SentencePieceTokenizer,
) -> None:
    def moving(lively: bool) -> float:
        data = replace(RECIPE.data, one_view=True, lively=lively)
        footage = Footage(replace(RECIPE, data=data), CPU, 9)
        cover = footage.streams(100, 3, 1, shrunk, tokenizer)[1].cover
        return (cover[:, -1] != cover[:, -3]).flatten(1).any(1).float().mean().item()

    assert moving(True) > 1.1 * moving(False)
