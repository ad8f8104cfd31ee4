"""A linear start for the autoencoder: principal components, stage by stage.

Every stage of the encoder halves the picture, and the first two halve time; so each is started as the
projection of its patches onto their 16 main directions, and the decoder's stages as the way back. Signed
values travel through the ReLUs as pairs ``(max(y, 0), max(-y, 0))``, and memory blocks start as the
identity. Training begins from a working, if blocky, codec instead of from noise.

Needs the sub-pixel decoder and an encoder of twice 16 channels; knows nothing of the loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.taehv import Taehv, TaehvConfig
from models.taehv_layers import MemoryBlock, TimeGrow, TimePool

KEPT = 16
"""Components a stage keeps; as many as there are latent channels."""


def fits(config: TaehvConfig) -> bool:
    """Say whether a codec is wide enough for this start."""
    *inner, last = config.decoder_widths
    return (
        config.subpixel
        and config.latent_channels == KEPT
        and config.encoder_width >= 2 * KEPT
        and min(inner) >= 2 * KEPT
        and last >= 3
    )


def patches(signal: Tensor, frames: int) -> Tensor:
    """Gather ``frames`` x 2 x 2 patches.

    Args:
        signal: ``[B, T, C, h, w]``.
        frames: Frames of a patch; divides T.

    Returns:
        ``[B, T / frames, frames * C * 4, h / 2, w / 2]``, ordered frame, channel, row, column.
    """
    b, t, c, h, w = signal.shape
    cut = signal.reshape(b, t // frames, frames, c, h // 2, 2, w // 2, 2)
    return cut.permute(0, 1, 2, 3, 5, 7, 4, 6).reshape(b, t // frames, -1, h // 2, w // 2)


def components(signal: Tensor) -> Tensor:
    """Main directions ``[16, C]`` of the vectors in ``[B, T, C, h, w]``, mean included."""
    rows = signal.movedim(2, -1).flatten(0, -2).double()
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return vectors.flip(1)[:, :KEPT].T.float()


def project(signal: Tensor, basis: Tensor) -> Tensor:
    """Coordinates ``[B, T, 16, h, w]`` of ``[B, T, C, h, w]`` in ``basis``."""
    return torch.einsum("kc,btchw->btkhw", basis, signal)


@torch.no_grad()
def start_from_components(codec: Taehv, pixels: Tensor, kept: float = 0.0) -> None:
    """Set ``codec``'s weights from clips.

    Args:
        codec: One that ``fits``.
        pixels: ``[B, T, 3, h, w]`` in [0, 1], T a multiple of 4, sides multiples of 8.
        kept: Power of its own deviation that a latent channel keeps; their mean square is 1.
            With 0 all channels are alike, and detail is settled at the same noise as colour.
    """
    assert fits(codec.config), "this start needs a sub-pixel codec with room for signed pairs"
    _quieten(codec)
    signal, bases = pixels, []
    for frames in (2, 2, 1):
        cut = patches(signal, frames)
        bases.append(components(cut))
        signal = project(cut, bases[-1])
    deviation = signal.std(dim=(0, 1, 3, 4)).clamp_min(1e-3)
    deviation = deviation ** (1.0 - kept) * deviation.pow(2.0 * kept).mean().sqrt()
    mean = signal.mean(dim=(0, 1, 3, 4))
    _set_encoder(codec.encoder, bases, mean, deviation)
    _set_decoder(codec.decoder, bases, mean, deviation)


def _quieten(codec: Taehv) -> None:
    """Shrink everything, so that the linear path dominates but every unit can learn."""
    for module in codec.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(0.1)
            if module.bias is not None:
                module.bias.zero_()
    for module in codec.modules():
        if isinstance(module, MemoryBlock):
            last = module.conv[-1]
            assert isinstance(last, nn.Conv2d)
            last.weight.zero_()
            for inner in (module.conv[0], module.conv[2]):
                assert isinstance(inner, nn.Conv2d)
                inner.weight.mul_(10.0)


def _convolution(layer: nn.Module) -> nn.Conv2d:
    inner = layer.conv if isinstance(layer, TimePool | TimeGrow) else layer
    assert isinstance(inner, nn.Conv2d)
    return inner


def _set_encoder(layers: nn.Sequential, bases: list[Tensor], mean: Tensor, std: Tensor) -> None:
    first, last = _convolution(layers[0]), _convolution(layers[-1])
    first.weight.zero_()
    first.weight[range(3), range(3), 1, 1] = 1.0
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, TimePool)]
    for stage, (at, basis) in enumerate(zip(pools, bases, strict=True)):
        pool, down = _convolution(layers[at]), _convolution(layers[at + 1])
        pool.weight.zero_()
        down.weight.zero_()
        width = down.in_channels
        frames = pool.in_channels // width
        signed = 3 if stage == 0 else KEPT
        for frame in range(frames):
            for channel in range(signed):
                row = frame * signed + channel
                if stage == 0:
                    pool.weight[row, frame * width + channel] = 1.0
                else:
                    pool.weight[row, frame * width + channel] = 1.0
                    pool.weight[row, frame * width + KEPT + channel] = -1.0
        # Output pixel (i, j) of a stride of 2 sees rows 2i - 1 to 2i + 1: taps 1 and 2 are its patch.
        taps = basis.view(KEPT, frames * signed, 2, 2)
        down.weight[:KEPT, : frames * signed, 1:, 1:] = taps
        down.weight[KEPT : 2 * KEPT, : frames * signed, 1:, 1:] = -taps
    assert last.bias is not None
    last.weight.zero_()
    for channel in range(KEPT):
        last.weight[channel, channel, 1, 1] = 1.0 / std[channel]
        last.weight[channel, KEPT + channel, 1, 1] = -1.0 / std[channel]
    last.bias.copy_(-mean / std)


def _set_decoder(layers: nn.Sequential, bases: list[Tensor], mean: Tensor, std: Tensor) -> None:
    first = _convolution(layers[1])
    assert first.bias is not None
    for channel in range(KEPT):
        for sign, row in ((1.0, channel), (-1.0, KEPT + channel)):
            first.weight[row] = 0.0
            first.weight[row, channel, 1, 1] = sign * std[channel]
            first.bias[row] = sign * mean[channel]
    grows = [i for i, layer in enumerate(layers) if isinstance(layer, TimeGrow)]
    for at, basis in zip(grows, reversed(bases), strict=True):
        grow, after = layers[at], _convolution(layers[at + 1])
        assert isinstance(grow, TimeGrow)
        weight = grow.conv.weight
        width = weight.shape[1]
        back = basis.view(KEPT, grow.stride, -1, 4)  # component, frame, channel, sub-pixel
        channels = back.shape[2]
        # Colours are never negative and need no pair.
        signs = (1.0,) if channels == 3 else (1.0, -1.0)
        for index, sign in enumerate(signs):
            rows = torch.arange(channels * 4) + index * channels * 4
            for frame in range(grow.stride):
                at_rows = rows + frame * width * 4
                values = sign * back[:, frame].reshape(KEPT, -1).T
                weight[at_rows] = 0.0
                weight[at_rows, :KEPT, 0, 0] = values
                weight[at_rows, KEPT : 2 * KEPT, 0, 0] = -values
        kept = channels * len(signs)
        after.weight[:kept] = 0.0
        after.weight[range(kept), range(kept), 1, 1] = 1.0
    last = _convolution(layers[-1])
    last.weight.zero_()
    last.weight[range(3), range(3), 1, 1] = 1.0


def linear_encoder(codec: Taehv) -> Callable[[Tensor], Tensor]:
    """Return what ``codec``'s encoder computes if it was never trained after its start, only sooner.

    Args:
        codec: One that ``start_from_components`` made; its encoder's memory blocks do nothing yet.

    Returns:
        A function from pixels ``[B, 1 + 4k, 3, h, w]`` in [-1, 1] to latents ``[B, 1 + k, 16, H, W]``.
    """
    layers = codec.encoder
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, TimePool)]
    bases = []
    for stage, at in enumerate(pools):
        down, pool = _convolution(layers[at + 1]), _convolution(layers[at])
        signed = (3 if stage == 0 else KEPT) * (pool.in_channels // down.in_channels)
        bases.append(down.weight[:KEPT, :signed, 1:, 1:].reshape(KEPT, -1).detach().float())
    last = _convolution(layers[-1])
    assert last.bias is not None
    scale = last.weight[:, :KEPT, 1, 1].diagonal().detach().float()[:, None, None]
    shift = last.bias.detach().float()[:, None, None]

    def encode(pixels: Tensor) -> Tensor:
        first = pixels[:, :1].expand(-1, 3, -1, -1, -1)
        signal = (torch.cat((first, pixels), dim=1) + 1.0) * 0.5
        for frames, basis in zip((2, 2, 1), bases, strict=True):
            signal = project(patches(signal, frames), basis)
        return signal * scale + shift

    return encode
