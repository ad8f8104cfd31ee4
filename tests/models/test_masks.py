"""Training masks, spelled out."""

import pytest
import torch

from models import masks


def show(mask):
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def test_chunks_start_where_they_should():
    assert masks.chunk_starts(9, 3) == [0, 3, 6]
    assert masks.chunk_starts(8, 3) == [0, 3, 6]
    assert masks.chunk_starts(7, 3, independent_first_frame=True) == [0, 1, 4]
    assert masks.chunk_starts(1, 3, independent_first_frame=True) == [0]


def test_a_chunk_sees_itself_and_what_came_before():
    mask = masks.block_causal(5, masks.chunk_starts(5, 2))
    assert show(mask) == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]


def test_a_window_counts_the_chunk_and_the_sink():
    starts = masks.chunk_starts(6, 2)
    assert show(masks.block_causal(6, starts, window=4))[4:] == ["..xxxx", "..xxxx"]
    assert show(masks.block_causal(6, starts, window=4, sink=1))[4:] == ["x..xxx", "x..xxx"]
    assert show(masks.block_causal(6, starts, window=4, sink=1))[2] == "xxxx.."


def test_noisy_chunks_see_clean_ones_before_them_and_themselves():
    mask = masks.teacher_forcing(3, [0, 1])
    assert show(mask) == ["x.....", "xxx...", "xxx...", "...x..", "x...xx", "x...xx"]


@pytest.mark.parametrize("rows", [(), (2,)])
def test_frames_widen_to_tokens(rows):
    mask = torch.rand(*rows, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    wide = masks.to_tokens(mask, 4)
    assert wide.shape == (*rows, 12, 12)
    for query in range(12):
        for key in range(12):
            assert torch.equal(wide[..., query, key], mask[..., query // 4, key // 4])


def test_every_frame_sees_itself():
    for chunk in (1, 2, 3):
        for window in (None, 3, 5):
            mask = masks.block_causal(9, masks.chunk_starts(9, chunk), window)
            assert mask.diagonal().all()
