"""Stage ``decoder``: the codec's decoder goes on learning, from latents that the network itself made.

An encoder's latents hold detail that a network's estimates lack, and a decoder that knew only those shows the
estimates softer than they need be. In a recipe with one view every stream of the network has one right
picture, so its latents are decoded and compared with the render. Half of the batches are encoded renders still.
Windows may begin anywhere in a stream: what the decoder remembers there is what the latents before it leave.
The encoder, and so what latents mean, stays as it is.

Of four frames from one latent a decoder that is only asked to be right on average shows movement late: the
frames hardly differ and the next latent brings the rest at once. So the amount of change is compared as well.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.taehv import Taehv
from models.train.autoencoder import liveliness_loss, psnr_db, reconstruction_loss, to_channels_last
from models.train.chance import below
from models.train.optimise import Average, Optimiser
from models.train.recipe import DecoderRecipe
from models.train.run_folder import Stage


@dataclass(frozen=True, slots=True)
class Filmed:
    """Streams with their latents.

    Attributes:
        pixels: int8 ``[B, T, 3, h, w]``, T = 4F - 3: what should be seen, -127 to 127.
        encoded: ``[B, F, C, H, W]`` the encoder's latents of it.
        own: ``[B, F, C, H, W]`` those that the network made for the same prompts.
    """

    pixels: Tensor
    encoded: Tensor
    own: Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """A cut out of some streams.

    Attributes:
        latents: ``[B, F, C, H, W]``, those to warm up on before those to be shown.
        pixels: ``[B, T, 3, 8H, 8W]`` in [-1, 1] of the last frames.
    """

    latents: Tensor
    pixels: Tensor


def cut(footage: Filmed, recipe: DecoderRecipe, own: bool, draw: torch.Generator) -> Window:
    """Cut random windows of random streams, all at one time and place.

    Args:
        footage: What they are cut from.
        recipe: Sizes: windows in latents, sides in pixels.
        own: Take the network's latents.
        draw: Random numbers, on the host.
    """
    source = footage.own if own else footage.encoded
    streams, frames, _, height, width = source.shape
    assert recipe.warm > 0, "a window within a stream begins with latents that are not shown"
    side = recipe.crop // 8
    rows = torch.randint(streams, (recipe.batch,), generator=draw)
    top, left = below(height - side + 1, draw), below(width - side + 1, draw)
    # The first latent of a stream is one picture, and a decoder remembers nothing there.
    start = max(below(frames - recipe.frames + 1 + recipe.warm, draw) - recipe.warm, 0)
    begin, end = max(start - recipe.warm, 0), start + recipe.frames
    shown = slice(max(4 * start - 3, 0), 4 * end - 3)
    box = (slice(top, top + side), slice(left, left + side))
    wide = (slice(8 * top, 8 * (top + side)), slice(8 * left, 8 * (left + side)))
    return Window(
        latents=source[rows, begin:end, :, *box],
        pixels=footage.pixels[rows, shown, :, *wide].float() / 127.0,
    )


def train_decoder(
    stage: Stage,
    recipe: DecoderRecipe,
    codec: Taehv,
    make_film: Callable[[int], Callable[[], Filmed]],
    device: torch.device,
    seed: int,
) -> Taehv:
    """Train the decoder of ``codec`` in place; returns the averaged codec.

    Args:
        stage: Counts and keeps.
        recipe: Of this stage.
        codec: A finished one.
        make_film: Given the step at which training goes on, begins what makes the next streams.
        device: Where it computes, in float32.
        seed: Of what is cut; a stage that goes on cuts anew.
    """
    to_channels_last(codec, device)
    codec.encoder.requires_grad_(False)
    optimiser = Optimiser([codec.decoder], recipe.peak, betas=(0.9, 0.99), weight_decay=0.0)
    average = Average(codec, recipe.decay)
    payload = stage.restore(device, codec=codec, optimiser=optimiser, average=average)
    film = make_film(stage.step)
    draw = torch.Generator().manual_seed(seed + stage.step)
    held = deque((film() for _ in range(min(4, recipe.held))), maxlen=recipe.held)
    figures: dict[str, list[Tensor]] = {"loss": [], "lively": [], "own_db": [], "encoded_db": []}
    for tick in stage.ticks(payload):
        if tick.step % recipe.refresh_every == 0:
            held.append(film())
        footage = held[below(len(held), draw)]
        own = tick.step % 2 == 0
        window = cut(footage, recipe, own, draw)
        guess, _ = codec.decode(window.latents, clamp=False)
        guess = guess[:, -window.pixels.shape[1] :]
        lively = liveliness_loss(guess, window.pixels)
        loss = reconstruction_loss(guess, window.pixels) + recipe.liveliness_weight * lively
        loss.backward()
        optimiser.step(tick.progress)
        average.update(codec)
        figures["loss"].append(loss.detach())
        figures["lively"].append(lively.detach())
        figures["own_db" if own else "encoded_db"].append(
            psnr_db(guess.detach(), window.pixels).mean()
        )
        if tick.step % 50 == 49:
            # A stage that went on one step ago has seen one kind of latents.
            seen = {name: values for name, values in figures.items() if values}
            stage.report(**{name: torch.stack(v).mean().item() for name, v in seen.items()})
            figures = {name: [] for name in figures}
    stage.draw_curve(("loss", "own_db", "encoded_db"))
    finished = average.module
    assert isinstance(finished, Taehv)
    return finished
