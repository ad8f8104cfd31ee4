from dataclasses import replace

import pytest
import torch

from engine.bands import Bands, check_devices, plan_bands
from models.config import TransformerConfig
from models.registry import find
from tests.fakes import tiny_test_entry

CONFIG = TransformerConfig(dim=64, ffn_dim=64, num_heads=4, num_layers=1)


@pytest.mark.parametrize("axis", [0, 1])
def test_bands_come_back_in_token_order(axis: int) -> None:
    bands = Bands(2, axis, (4, 6))
    assert bands.padding == 0
    tokens = torch.arange(3 * 24).view(1, 72, 1, 1)
    parts = bands.bands(tokens, 3)
    assert parts.shape == (2, 1, 36, 1, 1)
    assert torch.equal(bands.whole(parts, 3), tokens)
    latents = torch.arange(24.0).view(1, 1, 1, 4, 6)
    cuts = [bands.cut(latents, rank) for rank in range(2)]
    assert torch.equal(bands.join(cuts), latents)
    assert torch.equal(parts[1, 0, :12, 0, 0].float(), cuts[1].flatten())


@pytest.mark.parametrize("devices", [2, 3, 4, 8])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("patch", [1, 2])
def test_bands_that_do_not_divide_come_back_without_their_padding(
    devices: int, axis: int, patch: int
) -> None:
    grid = (15, 23)
    bands = Bands(devices, axis, grid)
    tokens = torch.rand(2, 3 * 15 * 23, 4, 5)
    parts = bands.bands(tokens, 3)
    assert parts.shape[2] == 3 * bands.thickness * grid[1 - axis]
    assert torch.equal(bands.whole(parts, 3), tokens)
    latents = torch.rand(2, 3, 16, 15 * patch, 23 * patch)
    cuts = [bands.cut(latents, rank) for rank in range(devices)]
    assert len({cut.shape for cut in cuts}) == 1
    assert torch.equal(bands.join(cuts), latents)


def test_frames_are_cut_by_rows_where_they_divide_else_by_columns() -> None:
    assert plan_bands(CONFIG, (30, 52), 2).axis == 0
    assert plan_bands(CONFIG, (30, 52), 4).axis == 1


def test_frames_that_do_not_divide_are_cut_where_less_is_wasted() -> None:
    eight = plan_bands(replace(CONFIG, dim=80, num_heads=40), (30, 52), 8)
    assert (eight.axis, eight.thickness, eight.padding) == (0, 4, 2)
    two = plan_bands(CONFIG, (3, 5), 2)
    assert (two.axis, two.thickness, two.padding) == (1, 3, 1)


def test_heads_and_tokens_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 devices for 4 heads"):
        plan_bands(CONFIG, (30, 52), 3)
    with pytest.raises(ValueError, match="4 devices for frames of 1x2 tokens"):
        plan_bands(CONFIG, (1, 2), 4)


def test_a_number_of_devices_that_a_model_does_not_allow_is_refused_with_those_it_does() -> None:
    wan = find("wan2.1-1.3b-self-forcing")
    for devices in (1, 2, 3, 4, 6):
        check_devices(wan, devices)
    for devices in (0, 5, 12, 24):
        with pytest.raises(ValueError, match=rf"^{devices} tensor devices; .* 12 heads .* 832x480"):
            check_devices(wan, devices)
    with pytest.raises(ValueError, match=r"choose 1, 2, 3, 4 or 6$"):
        check_devices(wan, 5)


def test_every_size_of_a_model_counts() -> None:
    check_devices(tiny_test_entry(), 2)
    with pytest.raises(ValueError, match=r"makes 64x32, 16x16, .* choose 1$"):
        check_devices(tiny_test_entry(sizes=((64, 32), (16, 16))), 2)


def test_a_model_that_attends_to_image_tokens_runs_on_one_device() -> None:
    entry = tiny_test_entry()
    entry = replace(entry, transformer=replace(entry.transformer, image_dim=8))
    check_devices(entry, 1)
    with pytest.raises(ValueError, match=r"2 tensor devices; .* image tokens"):
        check_devices(entry, 2)
