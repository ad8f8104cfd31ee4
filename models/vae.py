"""Wan2.1's causal video VAE, streaming exactly in both directions.

Every convolution over time remembers its last two input frames. That memory goes in
and comes out as a tuple of tensors, so a stream decoded latent by latent, chunk by
chunk or at once gives the same pixels. Zero padding at stream start and a memory of
zeros are the same thing; what makes the first frame special is only that the
temporal resamplers skip it, so that 1 + k latents are 1 + 4k pixel frames.

Works on normalised model latents. Knows nothing of prompts, sessions or files.
Architecture, key names and statistics: Wan (Wan Team 2025, arXiv:2503.20314).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Memory = tuple[Tensor, ...]
"""What a stream remembers: the recent inputs of every convolution over time."""

LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Shape of a Wan VAE; the defaults are Wan2.1's.

    Attributes:
        dim: channels at full resolution; ``dim * multipliers[i]`` further down.
        latent_channels: ``C`` of the latents.
        temporal: whether the i-th downsampler also halves time.
        mean, std: per latent channel; a model latent is ``(mu - mean) / std``.
    """

    dim: int = 96
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    temporal: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = LATENT_MEAN
    std: tuple[float, ...] = LATENT_STD

    @property
    def frames_to_trim(self) -> int:
        """Pixel frames by which the first latent falls short of the others."""
        return 2 ** sum(self.temporal) - 1

    def decoder_state_elements(self, height: int, width: int) -> int:
        """Count the numbers one stream's decoder remembers (latent ``height`` x ``width``)."""
        shapes = decoder_state_shapes(self, height, width)
        return sum(torch.Size(shape).numel() for shape in shapes)


class _Stream:
    """Deals out the memory of one call: each layer takes its old part, leaves its new one."""

    def __init__(self, state: Memory | None) -> None:
        self.first = state is None
        self._old = state
        self._new: list[Tensor] = []

    def extend(self, x: Tensor, frames: int) -> Tensor:
        """Put the ``frames`` inputs before ``x`` in front of it; remember its last ones.

        Args:
            x: ``[B, C, T, H, W]``.
            frames: how far the caller looks back.
        """
        if self._old is None:
            past = x.new_zeros(x.shape[0], x.shape[1], frames, *x.shape[3:])
        else:
            past = self._old[len(self._new)].transpose(1, 2)
        joined = torch.cat([past, x], dim=2)
        # Batch and time first, as all states are; a copy, so that nothing else stays alive.
        self._new.append(joined[:, :, joined.shape[2] - frames :].transpose(1, 2).clone())
        return joined

    def memory(self) -> Memory:
        assert self._old is None or len(self._old) == len(self._new), "state of another codec"
        return tuple(self._new)


class _CausalConv(nn.Conv3d):
    """Convolution over time and space that sees no later frame."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, padding=(0, kernel // 2, kernel // 2))

    def stream(self, x: Tensor, stream: _Stream) -> Tensor:
        return self(stream.extend(x, self.kernel_size[0] - 1))


class _RMSNorm(nn.Module):
    def __init__(self, dim: int, *, images: bool = False) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1) if images else torch.ones(dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) * self.scale * self.gamma


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _RMSNorm(channels),
            nn.SiLU(),
            _CausalConv(channels, out, 3),
            _RMSNorm(out),
            nn.SiLU(),
            nn.Identity(),  # upstream's dropout; keeps the published indices
            _CausalConv(out, out, 3),
        )
        self.shortcut = nn.Identity() if channels == out else _CausalConv(channels, out, 1)

    def stream(self, x: Tensor, stream: _Stream) -> Tensor:
        y = x
        for layer in self.residual:
            y = layer.stream(y, stream) if isinstance(layer, _CausalConv) else layer(y)
        return y + self.shortcut(x)


class _Attention(nn.Module):
    """Single-head attention inside each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = _RMSNorm(dim, images=True)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def stream(self, x: Tensor, _: _Stream) -> Tensor:
        batch, channels, frames, h, w = x.shape
        images = x.transpose(1, 2).reshape(batch * frames, channels, h, w)
        qkv = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2)[:, None]
        q, k, v = qkv.chunk(3, dim=-1)  # [B*T, 1, h*w, C]
        y = functional.scaled_dot_product_attention(q, k, v)
        y = self.proj(y[:, 0].transpose(1, 2).reshape(images.shape))
        return x + y.unflatten(0, (batch, frames)).transpose(1, 2)


class _Resample(nn.Module):
    """Halve or double the resolution, and with ``temporal`` the frame rate too."""

    def __init__(self, channels: int, *, up: bool, temporal: bool) -> None:
        super().__init__()
        self.up = up
        if up:
            self.resample = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest-exact"),
                nn.Conv2d(channels, channels // 2, 3, padding=1),
            )
        else:
            self.resample = nn.Sequential(
                nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)
            )
        self.time_conv: nn.Conv3d | None = None
        if temporal:
            self.time_conv = nn.Conv3d(
                channels,
                channels * (2 if up else 1),
                (3, 1, 1),
                stride=(1 if up else 2, 1, 1),
            )

    def stream(self, x: Tensor, stream: _Stream) -> Tensor:
        if self.up and self.time_conv is not None:
            x = self._grow(x, stream, self.time_conv)
        batch, _, frames, _, _ = x.shape
        x = self.resample(x.transpose(1, 2).flatten(0, 1))
        x = x.unflatten(0, (batch, frames)).transpose(1, 2)
        if not self.up and self.time_conv is not None:
            x = self._shrink(x, stream, self.time_conv)
        return x

    def _grow(self, x: Tensor, stream: _Stream, conv: nn.Conv3d) -> Tensor:
        # At stream start frame 0 passes through and is not part of the history either.
        head, x = (x[:, :, :1], x[:, :, 1:]) if stream.first else (x[:, :, :0], x)
        joined = stream.extend(x, 2)
        if x.shape[2] == 0:
            return head
        y = conv(joined).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]
        y = y.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # frames 2t, 2t+1 = first, second half
        return torch.cat([head, y], dim=2)

    def _shrink(self, x: Tensor, stream: _Stream, conv: nn.Conv3d) -> Tensor:
        # At stream start frame 0 passes through and is the history of the next.
        joined = stream.extend(x, 1)
        if not stream.first:
            return conv(joined)
        head = x[:, :, :1]
        return head if x.shape[2] == 1 else torch.cat([head, conv(x)], dim=2)


class _Half(nn.Module):
    """The layers that encoder and decoder share; subclasses fill the list between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1: _CausalConv
        self.middle: nn.Sequential
        self.head: nn.Sequential

    def _between(self) -> list[nn.Module]:
        raise NotImplementedError

    def stream(self, x: Tensor, stream: _Stream) -> Tensor:
        for layer in (self.conv1, *self._between(), *self.head):
            x = layer.stream(x, stream) if hasattr(layer, "stream") else layer(x)
        return x


def _middle(dim: int) -> nn.Sequential:
    return nn.Sequential(_ResidualBlock(dim, dim), _Attention(dim), _ResidualBlock(dim, dim))


def _head(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(_RMSNorm(dim), nn.SiLU(), _CausalConv(dim, out, 3))


class _Encoder(_Half):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        dims = [config.dim * m for m in (1, *config.multipliers)]
        self.conv1 = _CausalConv(3, dims[0], 3)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(dims)):
            layers += [_ResidualBlock(before, after)]
            layers += [_ResidualBlock(after, after) for _ in range(config.blocks - 1)]
            if i < len(config.temporal):
                layers.append(_Resample(after, up=False, temporal=config.temporal[i]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], 2 * config.latent_channels)

    def _between(self) -> list[nn.Module]:
        return [*self.downsamples, *self.middle]


class _Decoder(_Half):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        dims = [config.dim * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
        self.conv1 = _CausalConv(config.latent_channels, dims[0], 3)
        self.middle = _middle(dims[0])
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(dims)):
            # Each upsampler has halved the channels of the level before it.
            first = before if i == 0 else before // 2
            layers += [_ResidualBlock(first, after)]
            layers += [_ResidualBlock(after, after) for _ in range(config.blocks)]
            if i < len(config.temporal):
                layers.append(_Resample(after, up=True, temporal=config.temporal[-1 - i]))
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(dims[-1], 3)

    def _between(self) -> list[nn.Module]:
        return [*self.middle, *self.upsamples]


class WanVae(nn.Module):
    """Encoder and decoder with the original Wan key names."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = _Encoder(config)
        self.conv1 = _CausalConv(2 * channels, 2 * channels, 1)
        self.conv2 = _CausalConv(channels, channels, 1)
        self.decoder = _Decoder(config)
        self._known: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def frames_for(self, latent_frames: int, first: bool) -> int:
        """Count the pixel frames ``latent_frames`` decode to; ``first`` at stream start."""
        trim = self.config.frames_to_trim
        return (trim + 1) * latent_frames - (trim if first else 0)

    def state_bytes(self, height: int, width: int) -> int:
        """Return the decoder state of one stream in bytes, at ``height x width`` pixels."""
        size = self.conv2.weight.element_size()
        return size * self.config.decoder_state_elements(height // 8, width // 8)

    def decode(self, latents: Tensor, state: Memory | None = None) -> tuple[Tensor, Memory]:
        """Decode the next latents of a stream.

        Args:
            latents: ``[B, F, C, H, W]``, normalised model latents.
            state: what the previous call returned; None at stream start, where the
                first latent frame yields one pixel frame instead of four.

        Returns:
            Pixels ``[B, T, 3, 8H, 8W]`` in [-1, 1] and the new state.
        """
        pixels, memory = self.decode_raw(latents, state)
        return pixels.clamp(-1.0, 1.0), memory

    def decode_raw(self, latents: Tensor, state: Memory | None) -> tuple[Tensor, Memory]:
        """Decode like ``decode``, without the clamp."""
        stream = _Stream(state)
        mean, std = self._statistics()
        x = latents.to(std.dtype).transpose(1, 2) * std + mean
        x = self.decoder.stream(self.conv2(x.to(self.conv2.weight.dtype)), stream)
        return x.transpose(1, 2), stream.memory()

    def encode(self, pixels: Tensor, state: Memory | None = None) -> tuple[Tensor, Memory]:
        """Encode the next pixels of a stream.

        Args:
            pixels: ``[B, T, 3, 8H, 8W]`` in [-1, 1]; T = 1 + 4k at stream start, else 4k.
            state: what the previous call returned; None at stream start.

        Returns:
            Normalised latent means ``[B, F, C, H, W]``, F = 1 + k or k, and the new state.
        """
        group = self.config.frames_to_trim + 1
        frames = pixels.shape[1]
        if frames == 0 or frames % group != (1 if state is None else 0):
            allowed = f"{'1 + ' if state is None else ''}a multiple of {group}"
            raise ValueError(
                f"{frames} pixel frames to encode; allowed is {allowed} "
                f"{'at the start of' if state is None else 'within'} a stream; cut the clip"
            )
        stream = _Stream(state)
        x = pixels.to(self.conv1.weight.dtype).transpose(1, 2)
        mu = self.conv1(self.encoder.stream(x, stream)).chunk(2, dim=1)[0]
        mean, std = self._statistics()
        return ((mu.to(std.dtype) - mean) / std).to(mu.dtype).transpose(1, 2), stream.memory()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        # float32 whatever the weights are; [1, C, 1, 1, 1]. Kept, since bringing them to a device
        # waits for it; not as inference tensors, since training may come after.
        device = self.conv2.weight.device
        if device not in self._known:
            with torch.inference_mode(False):
                mean, std = (
                    torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
                    for values in (self.config.mean, self.config.std)
                )
            self._known[device] = (mean, std)
        return self._known[device]


def decoder_state_shapes(
    config: VaeConfig, height: int, width: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Return the shapes ``[T, C, h, w]`` of one stream's decoder state, in order.

    Args:
        config: the VAE.
        height: latent rows ``H``.
        width: latent columns ``W``.
    """
    dims = [config.dim * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
    shapes = [(2, config.latent_channels, height, width)]  # conv1
    shapes += [(2, dims[0], height, width)] * 4  # middle
    for i, (before, after) in enumerate(pairwise(dims)):
        first = before if i == 0 else before // 2
        shapes += [(2, first, height, width)]
        shapes += [(2, after, height, width)] * (2 * config.blocks + 1)
        if i < len(config.temporal):
            if config.temporal[-1 - i]:
                shapes += [(2, after, height, width)]
            height, width = 2 * height, 2 * width
    shapes += [(2, dims[-1], height, width)]  # head
    return tuple(shapes)
