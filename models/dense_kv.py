"""Dense views of self-attention for training, all differentiable.

``BlockCausalKV`` is one pass over whole sequences. ``DenseKV`` is a contiguous cache for
self-rollout, as in Self Forcing (Huang et al. 2025, arXiv:2506.08009): the past is detached,
the current chunk sees the past and itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels import rope
from kernels.interface import Kernels
from kernels.torch_backend import TorchKernels
from models import masks
from models.kv import KVView, QKNorm
from models.policy import CachePolicy

__all__ = ["BlockCausalKV", "DenseKV"]


@dataclass(frozen=True, slots=True)
class BlockCausalKV:
    """One differentiable pass over whole sequences, with no cache.

    Build it with ``of``. Without a mask every frame sees every frame.

    Attributes:
        cos: cosines of the rotation, ``[T, D/2]`` or ``[B, T, D/2]``.
        sin: sines, the same.
        mask: ``[T, T]`` or ``[B, T, T]`` boolean, true may be seen; None sees all.
        kernels: that attend.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None = None
    kernels: Kernels = field(default_factory=TorchKernels)

    @classmethod
    def of(
        cls,
        frame_positions: Tensor,
        grid: tuple[int, int],
        head_dim: int,
        frame_mask: Tensor | None = None,
        kernels: Kernels | None = None,
    ) -> "BlockCausalKV":
        """Prepare a pass; make it once and use it for every batch of the same layout.

        Args:
            frame_positions: temporal position of each latent frame, integers ``[F]``, or
                ``[B, F]`` when rows differ. Its device is the pass's device. Teacher forcing
                gives the same positions twice.
            grid: tokens in height and width of a latent frame.
            head_dim: elements of one head (D).
            frame_mask: ``[F, F]`` or ``[B, F, F]`` boolean of ``models/masks.py``.
            kernels: default plain torch.
        """
        cos, sin = rope.angles(rope.token_positions(frame_positions, grid), head_dim)
        mask = None if frame_mask is None else masks.to_tokens(frame_mask, grid[0] * grid[1])
        return cls(cos, sin, mask, kernels or TorchKernels())

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        query = rope.rotate(norm.query(q), self.cos, self.sin)
        key = rope.rotate(norm.key(k), self.cos, self.sin)
        return self.kernels.attention(query, key, norm.split(v), self.mask).flatten(-2)


class DenseKV:
    """A contiguous cache for differentiable self-rollout; all rows are at the same frame.

    For each chunk run the denoising passes on ``view(frames)`` and then the clean pass on
    ``view(frames, keep=True)``, which appends. Kept keys and values are detached, so a
    gradient reaches the chunk that is being denoised and nothing before it. Views follow the
    policy's window, sink and rotary mode and are valid until the next kept pass. With ``attached`` kept
    keys and values carry gradients, if the pass that made them did: then what is kept is learned, too.

    Attributes:
        frames: indices in the stream of the cached latent frames, in cache order.
    """

    def __init__(
        self,
        layers: int,
        head_dim: int,
        grid: tuple[int, int],
        policy: CachePolicy,
        device: torch.device | str,
        kernels: Kernels | None = None,
        *,
        attached: bool = False,
    ) -> None:
        self.frames: tuple[int, ...] = ()
        self._attached = attached
        self._policy = policy
        self._grid = grid
        self._head_dim = head_dim
        self._device = device
        self._kernels = kernels or TorchKernels()
        self._keys: list[Tensor | None] = [None] * layers  # [B, S, N, D], rotated if absolute
        self._values: list[Tensor | None] = [None] * layers

    @property
    def end_frame(self) -> int:
        """Index in the stream of the next frame."""
        return self.frames[-1] + 1 if self.frames else 0

    def view(self, frames: int, *, keep: bool = False) -> KVView:
        """Prepare a pass over the next ``frames`` latent frames.

        Frames that have left the window are dropped first. With ``keep`` the pass appends
        its keys and values, and counts as done when the last layer has attended.
        """
        attended = self._policy.attended(self.end_frame + frames)
        self._evict(attended[:-frames])
        if self._policy.rope == "window":
            cos, sin = self._rotation(range(len(attended)))
        else:
            cos, sin = self._rotation(attended[-frames:])
        return _DensePass(self, attended, cos, sin, keep)

    def _rotation(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        frames = torch.tensor(positions, dtype=torch.int64, device=self._device)
        return rope.angles(rope.token_positions(frames, self._grid), self._head_dim)

    def _evict(self, past: tuple[int, ...]) -> None:
        """Keep only ``past``, which drops one run of frames after the sink."""
        dropped = len(self.frames) - len(past)
        if dropped == 0:
            return
        tokens = self._grid[0] * self._grid[1]
        sink = self._policy.sink_frames * tokens
        recent = sink + dropped * tokens
        for store in (self._keys, self._values):
            for layer, x in enumerate(store):
                assert x is not None, f"layer {layer} has kept no frames"
                store[layer] = torch.cat((x[:, :sink], x[:, recent:]), dim=1)
        self.frames = past

    def _attend(
        self, chunk: "_DensePass", layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm
    ) -> Tensor:
        rotate, tokens = self._kernels.rotate, q.shape[1]
        query = rotate(norm.query(q), chunk.cos[-tokens:], chunk.sin[-tokens:])
        window = self._policy.rope == "window"
        key, value = norm.key(k), norm.split(v)
        if not window:
            key = rotate(key, chunk.cos, chunk.sin)
        past_key, past_value = self._keys[layer], self._values[layer]
        if past_key is not None and past_value is not None:
            key = torch.cat((past_key, key), dim=1)
            value = torch.cat((past_value, value), dim=1)
        if chunk.keep:
            kept = (key, value) if self._attached else (key.detach(), value.detach())
            self._keys[layer], self._values[layer] = kept
            if layer == len(self._keys) - 1:
                self.frames = chunk.attended
        if window:
            key = rotate(key, chunk.cos, chunk.sin)
        return self._kernels.attention(query, key, value).flatten(-2)


@dataclass(frozen=True, slots=True)
class _DensePass:
    """One pass of a ``DenseKV``: the frames it attends to and their rotation."""

    cache: DenseKV
    attended: tuple[int, ...]
    cos: Tensor  # of all attended tokens (window) or the pass's own (absolute)
    sin: Tensor
    keep: bool

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QKNorm) -> Tensor:
        """See ``KVView.attend``."""
        return self.cache._attend(self, layer, q, k, v, norm)
