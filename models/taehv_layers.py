"""The layers of TAEHV: convolutions over frames, of which one sees the frame before.

Frames are time-major: row ``t * B + b`` is frame ``t`` of stream ``b``. Whose memory a layer is
given, and what came before a stream's first frame, is ``models/taehv.py``'s business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GrowConv", "MemoryBlock", "Squash", "TimeGrow", "TimePool", "folded"]


class MemoryBlock(nn.Module):
    """Residual block that also sees its own input of the previous time step.

    That is a shift by ``B`` rows, so the channels_last layout survives.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """Transform ``x`` ``[T*B, C, h, w]`` given ``previous`` ``[B, C, h, w]``."""
        past = torch.cat([previous, x[: x.shape[0] - previous.shape[0]]])
        return (self.conv(torch.cat([x, past], dim=1)) + x).relu_()


class TimeGrow(nn.Module):
    """Turn every frame into ``stride`` frames with a 1x1 convolution, ``scale`` times as large."""

    def __init__(self, channels: int, stride: int, scale: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.scale = scale
        self.conv = nn.Conv2d(channels, channels * stride * scale**2, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[T*B, C, h, w]`` to ``[T*stride*B, C, h*scale, w*scale]``; group s is frame s."""
        rows, channels, h, w = x.shape
        stride, scale = self.stride, self.scale
        if stride == scale == 1:
            return self.conv(x)
        # Outputs in the order frame, row, column, channel: then what a pixel takes lies together,
        # and one copy puts all of it where it belongs. Torch's own shuffle and two transposes took
        # four times as long on a CPU, a third of decoding.
        weight = self.conv.weight.view(stride, channels, scale, scale, channels)
        y = functional.conv2d(x, weight.permute(0, 2, 3, 1, 4).reshape(-1, channels, 1, 1))
        y = y.permute(0, 2, 3, 1)
        y = y.reshape(rows // batch, batch, h, w, stride, scale, scale, channels)
        y = y.permute(0, 4, 1, 2, 5, 3, 6, 7).reshape(rows * stride, h * scale, w * scale, channels)
        return _like_layout(y.permute(0, 3, 1, 2), x)


class GrowConv(nn.Module):
    """``TimeGrow``, a doubling of the picture and the 3x3 convolution behind it, as four 2x2 ones.

    The nine pixels that a pixel of the larger picture is made from belong to four of the smaller
    one. The weights of both convolutions are multiplied beforehand, for each of the four places
    that a pixel can have in its pair of rows and columns. Neither has a bias, so what lies beyond
    the border is zero either way, and the numbers differ by rounding only. For inference: this is
    2.3 times less work than the 3x3 convolution, and what that would read is never written.

    Args:
        grow: makes ``stride`` frames of one; shuffles pixels where its ``scale`` is 2.
        conv: 3x3, without a bias.
    """

    @torch.no_grad()
    def __init__(self, grow: TimeGrow, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, scale, into = grow.stride, grow.scale, grow.conv.in_channels
        made = grow.conv.weight.double().view(self.stride, into, scale, scale, into)
        made = made.expand(-1, -1, 2, 2, -1)
        taps, dtype = conv.weight.double(), conv.weight.dtype
        weights = []
        for row, column in PLACES:
            weight = taps.new_zeros(self.stride, conv.out_channels, into, 2, 2)
            for tap in range(9):
                down, right = row + tap // 3 - 1, column + tap % 3 - 1
                pixel = made[:, :, down % 2, right % 2]
                part = torch.einsum("oc,tci->toi", taps[:, :, tap // 3, tap % 3], pixel)
                weight[..., down // 2 + 1 - row, right // 2 + 1 - column] += part
            weights.append(nn.Parameter(weight.flatten(0, 1).to(dtype), requires_grad=False))
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[T*B, C, h, w]`` to ``[T*stride*B, C', 2h, 2w]``; group s is frame s."""
        rows, _, h, w = x.shape
        frames, channels = rows // batch, self.weights[0].shape[0] // self.stride
        out = x.new_empty(frames, self.stride, batch, h, 2, w, 2, channels)
        x = functional.pad(x, (1, 1, 1, 1))
        for (row, column), weight in zip(PLACES, self.weights, strict=True):
            near = x[:, :, row : row + h + 1, column : column + w + 1]
            y = functional.conv2d(near, weight).permute(0, 2, 3, 1)
            y = y.reshape(frames, batch, h, w, self.stride, channels).permute(0, 4, 1, 2, 3, 5)
            out[:, :, :, :, row, :, column] = y
        return out.view(-1, 2 * h, 2 * w, channels).permute(0, 3, 1, 2)


PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Of a pixel in its pair of rows and columns."""


def folded(layers: nn.Sequential) -> nn.Sequential:
    """Replace what doubles the picture and the 3x3 convolution behind it by ``GrowConv``."""
    out: list[nn.Module] = []
    for layer in layers:
        grow = _doubling(out)
        if grow is not None and isinstance(layer, nn.Conv2d):
            out[-2:] = [GrowConv(grow, layer)]
        else:
            out.append(layer)
    return nn.Sequential(*out)


def _doubling(layers: list[nn.Module]) -> TimeGrow | None:
    """Return what doubles the picture at the end of ``layers``; None where nothing does."""
    if len(layers) < 2 or not isinstance(layers[-1], TimeGrow):
        return None
    before, grow = layers[-2], layers[-1]
    shuffles = isinstance(before, nn.Identity) and grow.scale == 2
    return grow if shuffles or isinstance(before, nn.Upsample) else None


class TimePool(nn.Module):
    """Merge every ``stride`` frames into one with a 1x1 convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[T*B, C, h, w]`` to ``[T/stride*B, C, h, w]``."""
        if self.stride > 1:
            rows, channels, h, w = x.shape
            y = x.reshape(rows // self.stride // batch, self.stride, batch, channels, h, w)
            y = y.transpose(1, 2).reshape(rows // self.stride, self.stride * channels, h, w)
            x = _like_layout(y, x)
        return self.conv(x)


class Squash(nn.Module):
    """Soft clamp of latents to [-bound, bound]."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self._bound = bound

    def forward(self, x: Tensor) -> Tensor:
        """Return ``bound * tanh(x / bound)``."""
        return self._bound * torch.tanh(x / self._bound)


def _like_layout(x: Tensor, reference: Tensor) -> Tensor:
    """Lay ``x`` out as ``reference`` is, so that convolutions stay fast."""
    if reference.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
