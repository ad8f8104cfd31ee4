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

from models.checkpoint import Weights
from models.taehv_layers import GrowConv, MemoryBlock, Squash, TimeGrow, TimePool, folded

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


class Taehv(nn.Module):
    """Encoder and decoder with the published key names.

    State-dict names are ``encoder.{i}...`` and ``decoder.{i}...``.
    """

    def __init__(self, config: TaehvConfig) -> None:
        super().__init__()
        self.config = config
        e, (a, b, c, d) = config.encoder_width, config.decoder_widths
        encoder: list[nn.Module] = [nn.Conv2d(3, e, 3, padding=1), nn.ReLU(inplace=True)]
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
            nn.ReLU(inplace=True),
        ]
        for width, after, stride in ((a, b, 1), (b, c, 2), (c, d, 2)):
            decoder += [
                *(MemoryBlock(width) for _ in range(3)),
                nn.Identity() if config.subpixel else nn.Upsample(scale_factor=2),
                TimeGrow(width, stride, 2 if config.subpixel else 1),
                nn.Conv2d(width, after, 3, padding=1, bias=False),
            ]
        decoder += [nn.ReLU(inplace=True), nn.Conv2d(d, 3, 3, padding=1)]
        self.decoder = nn.Sequential(*decoder)

    def lay_out(self) -> None:
        """Bring the weights into the layout that serves fastest; they are not to be saved after it.

        They lie channels last. On a CPU, where it was measured, what enlarges the picture is folded
        into the convolution behind it (``taehv_layers.folded``).
        """
        if next(self.decoder.parameters()).device.type == "cpu":
            self.decoder = folded(self.decoder)
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
        elif isinstance(layer, TimeGrow | TimePool | GrowConv):
            # A 1x1 convolution commutes with nearest upsampling and costs 4x less before it.
            x = layer(x, batch)
            if pending_upsample is not None:
                x, pending_upsample = pending_upsample(x), None
        else:
            x = layer(x)
    frames = x.shape[0] // batch
    return x.unflatten(0, (frames, batch)).transpose(0, 1), tuple(memory)
