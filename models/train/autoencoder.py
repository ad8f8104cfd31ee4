"""Stage 1: the causal video autoencoder, trained on renders of the world.

Latents are standardised per channel while training and the statistics folded into the encoder's last
convolution at the end, so that the finished model's latents have unit variance, as diffusion wants
them. The decoder sees latents with a little noise, because at run time it decodes a network's
estimates, not an encoder's output. Knows nothing of prompts.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.taehv import Taehv
from models.train.optimise import Average, Optimiser
from models.train.recipe import AutoencoderRecipe
from models.train.run_folder import Stage


class LatentScale(nn.Module):
    """Per-channel mean and deviation of the encoder's output: the batch's own while training."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, latents: Tensor) -> Tensor:
        """Standardise ``[B, F, C, H, W]`` with this batch's statistics and remember them."""
        deviation, mean = torch.std_mean(latents.float(), dim=(0, 1, 3, 4))
        with torch.no_grad():
            self.mean.lerp_(mean.detach(), 0.02)
            self.deviation.lerp_(deviation.detach(), 0.02)
        shape = (1, 1, -1, 1, 1)
        return (latents - mean.view(shape)) / deviation.clamp_min(1e-3).view(shape)

    @torch.no_grad()
    def fold_into(self, codec: Taehv) -> None:
        """Make ``codec``'s encoder put out standardised latents by itself."""
        last = codec.encoder[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        scale = 1.0 / self.deviation.clamp_min(1e-3)
        last.weight.mul_(scale.view(-1, 1, 1, 1))
        last.bias.sub_(self.mean).mul_(scale)


def reconstruction_loss(guess: Tensor, target: Tensor) -> Tensor:
    """Charbonnier distance of pixels, of their spatial differences and of their changes in time.

    Args:
        guess: ``[B, T, 3, h, w]`` unclamped.
        target: ``[B, T, 3, h, w]`` in [-1, 1].
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return torch.sqrt((a - b).square() + 1e-5).mean()

    pixels = distance(guess, target) + 4.0 * functional.mse_loss(guess, target)
    across = distance(guess.diff(dim=-1), target.diff(dim=-1))
    down = distance(guess.diff(dim=-2), target.diff(dim=-2))
    time = distance(guess.diff(dim=1), target.diff(dim=1))
    return pixels + 0.5 * (across + down) + 0.5 * time


def liveliness_loss(guess: Tensor, target: Tensor, cell: int = 8) -> Tensor:
    """How far the amount of change in time is off, cell by cell and over the whole picture.

    What cannot be foreseen, drops of rain for example, is least wrong in ``reconstruction_loss`` when it
    hardly moves; here it is not. In a cell that most often has no drop none is still the least wrong amount;
    over the whole picture the share of cells that have one is.

    Args:
        guess: ``[B, T, 3, h, w]`` unclamped.
        target: ``[B, T, 3, h, w]`` in [-1, 1].
        cell: Side of the squares over which the amount is taken, pixels; divides h and w.
    """

    def amount(pixels: Tensor) -> Tensor:
        changes = pixels.diff(dim=1).abs().mean(dim=2)
        return functional.avg_pool2d(changes, cell)

    missing = amount(guess) - amount(target)
    return missing.abs().mean() + missing.mean(dim=(-2, -1)).abs().mean()


def to_channels_last(module: nn.Module, device: torch.device) -> None:
    """Move ``module`` and lay its convolutions out as CPUs and GPUs like them best."""
    module.to(device)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def psnr_db(guess: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of clips in [-1, 1], in dB, one value a clip ``[B]``."""
    error = (guess.clamp(-1, 1) - target).float().square().flatten(1).mean(dim=1)
    return 10.0 * torch.log10(4.0 / error.clamp_min(1e-10))


def train_autoencoder(
    stage: Stage,
    recipe: AutoencoderRecipe,
    codec: Taehv,
    clips: Callable[[], Tensor],
    device: torch.device,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    bfloat16: bool = True,
    compiled: bool = False,
) -> Taehv:
    """Train ``codec`` in place; returns the averaged model, its latents of unit variance.

    Args:
        stage: Counts and keeps.
        recipe: Of this stage.
        codec: What is trained.
        clips: Makes the next batch ``[B, T, 3, h, w]`` in [-1, 1].
        device: Where it computes.
        encode: A shorter way to what the encoder computes, for one that is not trained.
        bfloat16: Compute in bfloat16.
        compiled: Compile the step.
    """
    to_channels_last(codec, device)
    codec.encoder.requires_grad_(recipe.train_encoder)
    scale = LatentScale(codec.config.latent_channels).to(device)
    trained = codec if recipe.train_encoder else codec.decoder
    optimiser = Optimiser([trained], recipe.peak, clip=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    average = Average(codec, 0.998)
    payload = stage.restore(device, codec=codec, scale=scale, optimiser=optimiser, average=average)

    @torch.no_grad()
    def given(pixels: Tensor) -> Tensor:
        return encode(pixels) if encode else codec.encode(pixels)[0]

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor]:
        known = None if recipe.train_encoder else given(pixels)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            latents = scale(codec.encode(pixels)[0]) if known is None else known
            level = torch.rand(latents.shape[0], 1, 1, 1, 1, device=device) * recipe.latent_noise
            noisy = latents + level * torch.randn_like(latents)
            guess, _ = codec.decode(noisy, clamp=False)
        return reconstruction_loss(guess.float(), pixels), guess

    run = torch.compile(forward) if compiled else forward
    for tick in stage.ticks(payload):
        pixels = clips()
        loss, guess = run(pixels)
        loss.backward()
        optimiser.step(tick.progress)
        average.update(codec)
        if tick.step % 50 == 0:
            stage.report(loss=loss.item(), psnr_db=psnr_db(guess.detach(), pixels).mean().item())
    stage.draw_curve(("loss", "psnr_db"))
    finished = average.module
    assert isinstance(finished, Taehv)
    if recipe.train_encoder:
        scale.fold_into(finished)
    return finished
