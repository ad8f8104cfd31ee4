import numpy as np
import torch

from models.config import TransformerConfig
from models.train.captions import caption_batch
from models.train.ties import TiedNoise, Ties, directions, start_reading, ties_of
from models.train.world_scene import NAMES, draw_scenes
from models.transformer import CausalWan, places

LATENTS = (3, 16, 4, 8)
SIZE = (64, 32)


def some_ties(rows: int, seed: int = 0) -> tuple[Ties, list[tuple[str, ...]]]:
    draw = np.random.default_rng(seed)
    scenes = draw_scenes(draw, rows)
    stated = [caption.stated for caption in caption_batch(scenes, draw)]
    begin = draw.integers(0, 9600, rows)
    return ties_of(scenes, begin, stated, SIZE, draw), stated


def test_tied_numbers_are_standard_normal() -> None:
    ties, _ = some_ties(4000)
    where = ties.tied.float()
    mean = (ties.values * where).sum(0) / where.sum(0)
    square = (ties.values.square() * where).sum(0) / where.sum(0)
    # Omitted attributes are few in some columns; 6 deviations of the sampled mean.
    assert (mean.abs() < 6 / where.sum(0).sqrt()).all()
    assert (square - 1).abs().max() < 0.25


def test_tied_numbers_do_not_depend_on_each_other() -> None:
    ties, _ = some_ties(4000)
    correlation = torch.corrcoef(ties.values.T).fill_diagonal_(0.0)
    # Rain, fog and the pan all come from one clock; that much is left.
    assert correlation.abs().max() < 0.3
    assert correlation.abs().mean() < 0.02


def test_the_noise_says_nothing_that_the_caption_says() -> None:
    ties, stated = some_ties(300)
    for row, names in enumerate(stated):
        told = [name for name, tied in zip(NAMES, ties.tied[row].tolist(), strict=False) if not tied]
        assert told == [name for name in NAMES if name in names]


def test_a_dropped_prompt_leaves_everything_to_the_noise() -> None:
    ties, _ = some_ties(6)
    drop = torch.tensor([True, False] * 3)
    untold = ties.untold(drop)
    assert untold.tied[drop].all()
    assert torch.equal(untold.tied[~drop], ties.tied[~drop])


def test_directions_are_orthonormal() -> None:
    along = directions(96, *LATENTS).flatten(1)
    torch.testing.assert_close(along @ along.T, torch.eye(96), atol=1e-5, rtol=0)


def test_writing_replaces_tied_coordinates_and_nothing_else() -> None:
    ties, _ = some_ties(20)
    noise = torch.randn(20, *LATENTS, generator=torch.Generator().manual_seed(1))
    written = TiedNoise(LATENTS, torch.device("cpu")).write(noise, ties)
    along = directions(ties.values.shape[1], *LATENTS).flatten(1)
    before, after = noise.flatten(1) @ along.T, written.flatten(1) @ along.T
    torch.testing.assert_close(
        after, torch.where(ties.tied, ties.values, before), atol=1e-4, rtol=1e-4
    )
    rest = lambda x: x.flatten(1) - (x.flatten(1) @ along.T) @ along  # noqa: E731
    torch.testing.assert_close(rest(written), rest(noise), atol=1e-4, rtol=1e-4)
    assert abs(written.std().item() - 1) < 0.05


def test_the_same_scene_at_another_time_has_other_ties_for_what_moves_only() -> None:
    draw = np.random.default_rng(3)
    scenes = draw_scenes(draw, 50)
    moving = np.array([scene.motion in ("left", "right") for scene in scenes])
    stated = [NAMES] * 50
    one, other = (
        ties_of(scenes, np.full(50, at), stated, SIZE, np.random.default_rng(4)).values
        for at in (0, 5)
    )
    column = len(NAMES)  # where it is across the picture
    assert torch.equal(one[~moving, column], other[~moving, column])
    assert (one[moving, column] != other[moving, column]).all()
    assert torch.equal(one[:, column + 1 : column + 3], other[:, column + 1 : column + 3])


def test_the_first_head_begins_by_reading_the_ties() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        dim=128, ffn_dim=64, num_heads=2, num_layers=1, text_dim=16, text_len=4, placed=True
    )
    network = CausalWan(config)
    grid = (LATENTS[2] // 2, LATENTS[3] // 2)
    start_reading(network, grid)
    noise = torch.randn(16, *LATENTS, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        hidden = network._patchify(noise, grid) + places(grid, 128, noise.device).repeat(3, 1)
        attention = network.blocks[0].self_attn
        seen = attention.v(torch.nn.functional.layer_norm(hidden, (128,)))[..., :48].mean(dim=1)
        normed = attention.norm_q.weight[:64] * attention.q(hidden)[..., :64]
    ties = noise.flatten(1) @ directions(48, *LATENTS).flatten(1).T
    pair = torch.stack((seen.flatten(), ties.flatten()))
    assert torch.corrcoef(pair)[0, 1] > 0.9
    assert normed.abs().max() < 0.3  # next to no preference for any token
