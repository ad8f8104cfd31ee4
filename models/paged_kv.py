"""Keys and values in pages, shared by all sessions of a device, and the view one pass has of them.

``KVPool`` owns the memory. ``PagedKV`` serves one chunk of a batch whose rows may differ in
position, window length and pages. A pass first writes its own keys and values, then attends, so
the repeated passes over a chunk overwrite one another and only the last one's values stay. Which
page belongs to whom is decided elsewhere (``engine/window.py``); nothing here evicts or counts.

Keys are stored rotated when positions count from the start of the stream ("absolute"), and
unrotated when they count from the start of the window ("window"): then a window's keys are
rotated once for all passes over a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import rope as rotary
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models.kv import QKNorm
from models.policy import RopeMode

__all__ = ["KVPool", "PagedKV", "RowPages"]

NULL_PAGE = 0


@dataclass(frozen=True, slots=True)
class RowPages:
    """What one row of a batch writes and attends to in one pass.

    A padding row writes to the null page and reads nothing.

    Attributes:
        write: pages of the pass's own tokens, in token order; the null page discards.
        read: pages attended to, own ones included, whole latent frames, in any order.
        query_frames: temporal position of each latent frame of the pass.
        key_frames: temporal position of each latent frame in ``read``.
        past: whether each latent frame in ``read`` is one that ``past_weight`` applies to; empty
            is none.
    """

    write: tuple[int, ...]
    read: tuple[int, ...]
    query_frames: tuple[int, ...]
    key_frames: tuple[int, ...]
    past: tuple[bool, ...] = ()


class KVPool:
    """The memory of all pages: ``k, v [L, P, page_tokens, N, D]``.

    Args:
        layers: L.
        pages: P, the null page 0 included.
        page_tokens: tokens of a page; divides the tokens of a latent frame.
        heads: N.
        head_dim: D.
        dtype: of the stored values.
        device: where they are.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        page_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (layers, pages, page_tokens, heads, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def pages(self) -> int:
        """P, the null page included."""
        return self.k.shape[1]

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self.k.shape[2]

    @staticmethod
    def page_bytes(
        layers: int, page_tokens: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        """Return the bytes that one page takes over all layers, keys and values."""
        return 2 * layers * page_tokens * heads * head_dim * dtype.itemsize

    def gather(self, layer: int, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[S, N, D]`` of ``pages`` in their order.

        Pages that follow one another are a view, others a copy.
        """
        runs = _runs(pages)
        if len(runs) == 1:
            _, first, count = runs[0]
            k, v = self.k[layer, first : first + count], self.v[layer, first : first + count]
        else:
            index = torch.tensor(pages, device=self.k.device)
            k, v = self.k[layer].index_select(0, index), self.v[layer].index_select(0, index)
        return k.flatten(0, 1), v.flatten(0, 1)

    def exported_shape(self, pages: int) -> tuple[int, ...]:
        """Return the shape of what ``export`` gives for so many pages, keys and values alike."""
        return (self.k.shape[0], pages, *self.k.shape[2:])

    def export(self, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copy all layers of ``pages`` as keys and values ``[L, len(pages), page_tokens, N, D]``."""
        index = torch.tensor(pages, device=self.k.device, dtype=torch.int64)
        return self.k.index_select(1, index), self.v.index_select(1, index)

    def load(self, pages: Sequence[int], k: Tensor, v: Tensor) -> None:
        """Put back what ``export`` returned, into other pages."""
        index = torch.tensor(pages, device=self.k.device, dtype=torch.int64)
        self.k.index_copy_(1, index, k.to(self.k))
        self.v.index_copy_(1, index, v.to(self.v))

    def write(self, layer: int, runs: Sequence[tuple[int, int, int]], k: Tensor, v: Tensor) -> None:
        """Store ``k, v [T, N, D]`` at ``runs`` of (page of the pass, page of the pool, count)."""
        size = self.page_tokens
        for source, first, count in runs:
            tokens = slice(source * size, (source + count) * size)
            self.k[layer, first : first + count].flatten(0, 1).copy_(k[tokens])
            self.v[layer, first : first + count].flatten(0, 1).copy_(v[tokens])


class _Row:
    """One row's pages, worked out once for all layers and passes."""

    def __init__(self, pages: RowPages, pool: KVPool, frame_tokens: int) -> None:
        size = pool.page_tokens
        self.read = pages.read
        self.writes = [run for run in _runs(pages.write) if run[1] != NULL_PAGE]
        place = {page: index for index, page in enumerate(pages.read)}
        targets = [place.get(page, -1) for page in pages.write]
        assert all(
            (target >= 0) == (page != NULL_PAGE)
            for page, target in zip(pages.write, targets, strict=True)
        ), "a pass attends to all that it writes"
        # Where own tokens lie among the attended ones: (first own, first attended, tokens).
        self.own = [
            (source * size, target * size, count * size)
            for source, target, count in _runs(targets, single=-1)
            if target >= 0
        ]
        assert len(pages.read) * size == len(pages.key_frames) * frame_tokens, (
            f"{len(pages.read)} pages of {size} tokens hold {len(pages.key_frames)} frames of "
            f"{frame_tokens}"
        )


class PagedKV:
    """A batch's view of the pool for all passes over one chunk (a ``KVView``).

    Args:
        pool: Read and written in place.
        rows: One for each row of the batch, all with the same number of latent frames.
        grid: Tokens in height and width of a latent frame.
        rope: Whether stored keys are rotated ("absolute") or not ("window").
        kernels: Default plain torch.
        block_causal: Latent frames of a block; a query sees only keys whose position lies before
            the end of its own block, blocks counted from the first query. None sees all.
        past_weight: Factor on the attention to the frames a row calls past.
    """

    def __init__(
        self,
        pool: KVPool,
        rows: Sequence[RowPages],
        grid: tuple[int, int],
        rope: RopeMode,
        kernels: Kernels | None = None,
        block_causal: int | None = None,
        past_weight: float = 1.0,
    ) -> None:
        frame_tokens = grid[0] * grid[1]
        assert frame_tokens % pool.page_tokens == 0, (
            f"pages of {pool.page_tokens} tokens do not divide a latent frame of {frame_tokens}"
        )
        self._pool = pool
        self._kernels = kernels or TorchKernels()
        self._rows = [_Row(row, pool, frame_tokens) for row in rows]
        self._rope = rope
        head_dim, device = pool.k.shape[-1], pool.k.device

        def rotation(frames: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
            positions = rotary.token_positions(torch.tensor(frames, device=device), grid)
            return rotary.angles(positions, head_dim)

        self._query_rotation = rotation([row.query_frames for row in rows])
        self._key_rotations = [
            rotation([row.key_frames]) if rope == "window" and row.key_frames else None
            for row in rows
        ]
        self._masks = [
            None if block_causal is None else _block_mask(row, block_causal, frame_tokens, device)
            for row in rows
        ]
        self._biases = [
            torch.tensor(row.past, device=device).repeat_interleave(frame_tokens)
            * math.log(past_weight)
            if past_weight != 1.0 and row.past
            else None
            for row in rows
        ]
        # Rotated keys of the window by (layer, row), kept from the first pass on; own keys in it
        # are replaced by every pass.
        self._rotated: dict[tuple[int, int], Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        cos, sin = self._query_rotation
        query = rotary.rotate(norm.query(q), cos, sin)
        key, value = norm.key(k), norm.split(v)
        rotated = rotary.rotate(key, cos, sin)
        stored = key if self._rope == "window" else rotated
        outputs = []
        for b, row in enumerate(self._rows):
            self._pool.write(layer, row.writes, stored[b], value[b])
            if not row.read:
                outputs.append(torch.zeros_like(query[b : b + 1]))
                continue
            keys, values = self._pool.gather(layer, row.read)
            if self._rope == "window":
                keys = self._window_keys(layer, b, keys, rotated[b])
            outputs.append(
                self._kernels.attention(
                    query[b : b + 1], keys[None], values[None], self._masks[b], self._biases[b]
                )
            )
        merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return merged.flatten(-2)

    def _window_keys(self, layer: int, b: int, stored: Tensor, own: Tensor) -> Tensor:
        """Return the attended keys rotated to their places in the window, ``[S, N, D]``."""
        keys = self._rotated.get((layer, b))
        if keys is None:
            rotation = self._key_rotations[b]
            assert rotation is not None
            keys = self._rotated[layer, b] = rotary.rotate(stored[None], *rotation)[0]
        else:
            for source, target, count in self._rows[b].own:
                keys[target : target + count] = own[source : source + count]
        return keys


def _runs(numbers: Sequence[int], single: int = NULL_PAGE) -> list[tuple[int, int, int]]:
    """Split ``numbers`` into runs of consecutive ones: (index in them, first, count).

    ``single`` never joins a run.
    """
    runs: list[tuple[int, int, int]] = []
    for index, number in enumerate(numbers):
        if runs and runs[-1][1] != single and number == runs[-1][1] + runs[-1][2]:
            source, first, count = runs[-1]
            runs[-1] = (source, first, count + 1)
        else:
            runs.append((index, number, 1))
    return runs


def _block_mask(row: RowPages, block: int, frame_tokens: int, device: torch.device) -> Tensor:
    """Make the boolean mask ``[T, S]`` of one row of a block-causal pass."""
    first = row.query_frames[0]
    ends = [first + (i // block + 1) * block for i in range(len(row.query_frames))]
    seen = torch.tensor(row.key_frames, device=device) < torch.tensor(ends, device=device)[:, None]
    return seen.repeat_interleave(frame_tokens, 0).repeat_interleave(frame_tokens, 1)
