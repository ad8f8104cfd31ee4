"""Attention over disjoint keys, merged in Triton, equals attention over all of them."""

from typing import Any

import torch

from tests.kernels.test_triton_attention import dense, draw
from tests.kernels.triton_modules import load

triton_merge: Any = load("triton_merge")


def test_parts_over_disjoint_keys_merge_into_the_whole() -> None:
    k, v = draw(0, 9, 4, 2, 16), draw(1, 9, 4, 2, 16)
    q = draw(2, 1, 7, 2, 16)
    segments = [[0, 3], [1], [2, 8, 5]]
    parts, lses = zip(*(dense(q, k, v, pages, None) for pages in segments), strict=True)
    out, lse = triton_merge.merge_parts(
        torch.stack(parts).float().contiguous(), torch.stack(lses).float().contiguous()
    )
    want, want_lse = dense(q, k, v, [0, 3, 1, 2, 8, 5], None)
    torch.testing.assert_close(out, want.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, want_lse.float(), atol=1e-5, rtol=1e-5)
