"""TAEHV: a tiny streaming autoencoder for Wan's video latents.

A stack of 2-D convolutions whose only view of time is one remembered frame per
block, so that a stream is decoded (and encoded) chunk by chunk with the same
numbers as the whole clip at once. The memory goes in and comes out as a tuple of
tensors; nothing is kept in the module. One call handles all frames in parallel
and is differentiable, so training uses the same class.

Works on normalised model latents; knows nothing of prompts, sessions or files.
Architecture and key names: TAEHV (Ollin Boer Bohan, https://github.com/madebyollin/taehv).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoint import Weights

Memory = tuple[Tensor, ...]
"""What a stream remembers: one ``[B, C, h, w]`` frame per memory block."""


@dataclass(frozen=True, slots=True)
class TaehvConfig:
    """Widths of a TAEHV; the defaults are the published ``taew2_1``.

    Attributes:
        decoder_widths: channels at latent, 2x, 4x and 8x resolution.
        encoder_width: channels of the encoder, the same at every resolution.
        latent_channels: ``C`` of the latents.
        subpixel: the decoder's 1x1 convolutions make the four pixels of the next resolution
            (Shi et al. 2016, arXiv:1609.05158) instead of repeating one. The published models
            repeat; a narrow one learns much sooner this way.
        bound: latents are softly clamped to this magnitude before decoding.
    """

    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    encoder_width: int = 64
    latent_channels: int = 16
    subpixel: bool = False
    bound: float = 3.0

    @property
    def frames_to_trim(self) -> int:
        """Leading frames dropped at stream start: the first latent is one pixel frame."""
        return 3

    def decoder_state_elements(self, height: int, width: int) -> int:
        """Count the numbers one stream's decoder remembers.

        Args:
            height: latent rows ``H``.
            width: latent columns ``W``.
        """
        areas = (1, 4, 16)
        widths = self.decoder_widths[:3]
        return 3 * height * width * sum(a * c for a, c in zip(areas, widths, strict=True))

    def encoder_state_elements(self, height: int, width: int) -> int:
        """Count the numbers one stream's encoder remembers (latent ``height`` x ``width``)."""
        return 3 * height * width * self.encoder_width * (16 + 4 + 1)


class MemoryBlock(nn.Module):
    """Residual block that also sees its own input of the previous time step.

    Frames are time-major: row ``t * B + b`` is frame ``t`` of stream ``b``, so the
    previous step is a shift by ``B`` rows and the channels_last layout survives.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """Transform ``x`` ``[T*B, C, h, w]`` given ``previous`` ``[B, C, h, w]``."""
        past = torch.cat([previous, x[: x.shape[0] - previous.shape[0]]])
        return functional.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class TimeGrow(nn.Module):
    """Turn every frame into ``stride`` frames with a 1x1 convolution, ``scale`` times as large."""

    def __init__(self, channels: int, stride: int, scale: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.scale = scale
        self.conv = nn.Conv2d(channels, channels * stride * scale**2, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[T*B, C, h, w]`` to ``[T*stride*B, C, h*scale, w*scale]``; group s is frame s."""
        y: Tensor = self.conv(x)
        if self.stride > 1:
            rows, channels, h, w = y.shape
            channels //= self.stride
            y = y.reshape(rows // batch, batch, self.stride, channels, h, w).transpose(1, 2)
            y = y.reshape(rows * self.stride, channels, h, w)
        if self.scale > 1:
            y = functional.pixel_shuffle(y, self.scale)
        return y if y.shape == x.shape else _like_layout(y, x)


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


class Taehv(nn.Module):
    """Encoder and decoder with the published key names.

    State-dict names are ``encoder.{i}...`` and ``decoder.{i}...``.
    """

    def __init__(self, config: TaehvConfig) -> None:
        super().__init__()
        self.config = config
        e, (a, b, c, d) = config.encoder_width, config.decoder_widths
        encoder: list[nn.Module] = [nn.Conv2d(3, e, 3, padding=1), nn.ReLU()]
        for stride in (2, 2, 1):
            encoder += [
                TimePool(e, stride),
                nn.Conv2d(e, e, 3, stride=2, padding=1, bias=False),
                *(MemoryBlock(e) for _ in range(3)),
            ]
        encoder.append(nn.Conv2d(e, config.latent_channels, 3, padding=1))
        self.encoder = nn.Sequential(*encoder)

        decoder: list[nn.Module] = [
            Squash(config.bound),
            nn.Conv2d(config.latent_channels, a, 3, padding=1),
            nn.ReLU(),
        ]
        for width, after, stride in ((a, b, 1), (b, c, 2), (c, d, 2)):
            decoder += [
                *(MemoryBlock(width) for _ in range(3)),
                nn.Identity() if config.subpixel else nn.Upsample(scale_factor=2),
                TimeGrow(width, stride, 2 if config.subpixel else 1),
                nn.Conv2d(width, after, 3, padding=1, bias=False),
            ]
        decoder += [nn.ReLU(), nn.Conv2d(d, 3, 3, padding=1)]
        self.decoder = nn.Sequential(*decoder)

    def channels_last(self) -> None:
        """Lay the weights out channels last, which is the fast layout for serving."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def adapt(self, weights: Weights) -> Weights:
        """Fit a checkpoint whose time-growing convolutions make more frames than needed.

        Some published decoders share them with models of another frame rate; the last
        groups of outputs are the ones to keep.
        """
        tensors = dict(weights.tensors)
        for index, layer in enumerate(self.decoder):
            name = f"decoder.{index}.conv.weight"
            if isinstance(layer, TimeGrow) and name in tensors:
                tensors[name] = tensors[name][-layer.conv.out_channels :]
        return replace(weights, tensors=tensors)

    def frames_for(self, latent_frames: int, first: bool) -> int:
        """Count the pixel frames ``latent_frames`` decode to; ``first`` at stream start."""
        return 4 * latent_frames - (self.config.frames_to_trim if first else 0)

    def state_bytes(self, height: int, width: int) -> int:
        """Return the decoder state of one stream in bytes, at ``height x width`` pixels."""
        size = next(self.parameters()).element_size()
        return size * self.config.decoder_state_elements(height // 8, width // 8)

    def decode_raw(self, latents: Tensor, state: Memory | None) -> tuple[Tensor, Memory]:
        """Decode without clamp and without dropping the first frames.

        Args:
            latents: ``[B, F, C, H, W]``, model dtype.
            state: what the previous call returned; None at stream start.

        Returns:
            Pixels ``[B, 4F, 3, 8H, 8W]``, nominally in [0, 1], and the new state.
        """
        return _run(self.decoder, latents, state)

    def encode_raw(self, pixels: Tensor, state: Memory | None) -> tuple[Tensor, Memory]:
        """Encode ``[B, 4F, 3, 8H, 8W]`` in [0, 1] to ``[B, F, C, H, W]``, as it stands."""
        return _run(self.encoder, pixels, state)

    def decode(
        self, latents: Tensor, state: Memory | None = None, *, clamp: bool = True
    ) -> tuple[Tensor, Memory]:
        """Decode the next latents of a stream.

        Args:
            latents: ``[B, F, C, H, W]``, normalised model latents.
            state: what the previous call returned; None at stream start, where the
                first latent frame yields one pixel frame instead of four.
            clamp: limit pixels to [-1, 1]; training may want the unclamped values.

        Returns:
            Pixels ``[B, T, 3, 8H, 8W]`` in [-1, 1], T = 4F or 4F - 3, and the new state.
        """
        raw, memory = self.decode_raw(latents, state)
        if state is None:
            raw = raw[:, self.config.frames_to_trim :]
        pixels = raw * 2.0 - 1.0
        return (pixels.clamp(-1.0, 1.0) if clamp else pixels), memory

    def encode(self, pixels: Tensor, state: Memory | None = None) -> tuple[Tensor, Memory]:
        """Encode the next pixels of a stream.

        Args:
            pixels: ``[B, T, 3, 8H, 8W]`` in [-1, 1]; T = 1 + 4k at stream start (the
                first frame stands for four), else 4k.
            state: what the previous call returned; None at stream start.

        Returns:
            Latents ``[B, F, C, H, W]``, F = 1 + k or k, and the new state.
        """
        frames = pixels.shape[1]
        if frames == 0 or frames % 4 != (1 if state is None else 0):
            allowed = "1 + a multiple of 4" if state is None else "a multiple of 4"
            raise ValueError(
                f"{frames} pixel frames to encode; allowed is {allowed} "
                f"{'at the start of' if state is None else 'within'} a stream; cut the clip"
            )
        if state is None:
            pixels = torch.cat([pixels[:, :1].expand(-1, 3, -1, -1, -1), pixels], dim=1)
        return self.encode_raw((pixels + 1.0) * 0.5, state)


def _run(layers: nn.Sequential, x: Tensor, state: Memory | None) -> tuple[Tensor, Memory]:
    """Run time-major frames through ``layers``; ``[B, T, ...]`` in and out."""
    batch = x.shape[0]
    blocks = [layer for layer in layers if isinstance(layer, MemoryBlock)]
    assert state is None or len(state) == len(blocks), "state of another codec or direction"
    memory: list[Tensor] = []
    x = x.transpose(0, 1).flatten(0, 1)
    weight = next(layers.parameters())
    x = x.to(weight.dtype)
    if weight.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    pending_upsample: nn.Module | None = None
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            previous = torch.zeros_like(x[:batch]) if state is None else state[len(memory)]
            # A copy, so that the state does not keep every frame's storage alive.
            memory.append(x[x.shape[0] - batch :].clone())
            x = layer(x, previous)
        elif isinstance(layer, nn.Upsample):
            pending_upsample = layer
        elif isinstance(layer, TimeGrow | TimePool):
            # A 1x1 convolution commutes with nearest upsampling and costs 4x less before it.
            x = layer(x, batch)
            if pending_upsample is not None:
                x, pending_upsample = pending_upsample(x), None
        else:
            x = layer(x)
    frames = x.shape[0] // batch
    return x.unflatten(0, (frames, batch)).transpose(0, 1), tuple(memory)


def _like_layout(x: Tensor, reference: Tensor) -> Tensor:
    """Copy ``x`` to channels_last when ``reference`` is, so that convolutions stay fast."""
    if reference.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x
