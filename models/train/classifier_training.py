"""Training of the attribute classifier, and its own accuracy, on renders of the world.

Renders are worn on purpose: blur, noise, colour shift, blending with the neighbour
frame, and the first half second of a dissolve, which is what generated clips suffer
from. Knows nothing of the network that makes such clips.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.train.classifier import (
    EXCERPT_FRAMES,
    SIZE,
    STRIDE,
    AttributeClassifier,
    load_classifier,
    shrink,
)
from models.train.optimise import Average, Optimiser
from models.train.recipe import ClassifierRecipe
from models.train.run import Run
from models.train.run_folder import Stage, save_weights
from models.train.world_motion import anchored
from models.train.world_render import render, render_switch
from models.train.world_scene import FPS, NAMES, change_some, draw_scenes

_WORLD_S = 600
_DISSOLVE_SHARE = 0.125
_UNSEEN_SEED = 777_000


def draw_excerpts(
    seed: tuple[int, ...], count: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Render labelled excerpts; the same for the same seed.

    Every combination occurs, those held out of the network's training as well: the
    classifier has to know what the network is asked for.

    Returns:
        ``[count, 8, 3, 48, 80]`` in [-1, 1] and the codes ``[count]`` of each attribute.
    """
    generator = np.random.default_rng(seed)
    scenes = draw_scenes(generator, count, "any")
    start = generator.integers(0, _WORLD_S * FPS, count)
    turning = int(count * _DISSOLVE_SHARE)
    frames = EXCERPT_FRAMES // STRIDE
    pixels = torch.empty(count, frames, 3, *SIZE, device=device)
    if turning:
        # The first frames still show something else; the label is the new scene.
        new, begin = scenes.rows(slice(0, turning)), start[:turning]
        old = change_some(generator, new, "any")
        meets = begin - generator.integers(4, 14, turning)
        turned = anchored(old, new, meets / FPS)
        pixels[:turning] = shrink(
            render_switch(old, turned, meets, begin, frames, step=STRIDE, device=device)
        )
    rest = scenes.rows(slice(turning, count))
    pixels[turning:] = shrink(render(rest, start[turning:], frames, step=STRIDE, device=device))
    labels = {
        name: torch.from_numpy(scenes.column(name).copy()).to(device, non_blocking=True)
        for name in NAMES
    }
    return pixels, labels


def wear(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Make renders look as worn as generated clips: each kind of wear on a share of the rows.

    Args:
        pixels: ``[B, T, 3, H, W]`` in [-1, 1].
        generator: A CPU generator.
    """
    rows, frames, _, height, width = pixels.shape
    device = pixels.device

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        values = torch.rand(rows, 1, channels, 1, 1, generator=generator) * (high - low) + low
        return values.to(device, non_blocking=True)

    # Blur: half of the rows are mixed with a copy of half the size.
    half = rows // 2
    coarse = functional.avg_pool2d(pixels[:half].flatten(0, 1), 2)
    coarse = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    blurred = torch.lerp(pixels[:half], coarse.unflatten(0, (half, frames)), draw(0, 1)[:half])
    pixels = torch.cat([blurred, pixels[half:]])
    # Ghosts of the frame before.
    ghost = torch.cat([pixels[:, :1], pixels[:, :-1]], dim=1)
    pixels = torch.lerp(pixels, ghost, draw(-0.3, 0.35).clamp(min=0))
    pixels = pixels * draw(0.90, 1.08) + (draw(-0.05, 0.05, 3) + draw(-0.06, 0.06))
    # One field of noise serves all rows, each from another frame of it.
    field = torch.randn(frames, 3, height, width, generator=generator).to(device)
    turn = torch.arange(frames) + torch.randint(frames, (rows, 1), generator=generator)
    noise = field[(turn % frames).to(device)]
    return torch.addcmul(pixels, noise, draw(-0.04, 0.07).clamp(min=0)).clamp(-1, 1)


class _Footage:
    """Deals batches of excerpts; a block of renders is dealt a few times in other orders.

    What a step gets is a function of the seed and the step, so training resumes exactly.
    """

    def __init__(self, recipe: ClassifierRecipe, device: torch.device) -> None:
        self._seed, self._batch, self._device = recipe.seed, recipe.batch, device
        self._size, self._reuse = recipe.block, recipe.reuse
        self._block = -1
        self._pixels = torch.empty(0)
        self._labels: dict[str, Tensor] = {}

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return pixels and labels of a step."""
        block, within = divmod(step, self._size * self._reuse)
        if block != self._block:
            parts = [
                draw_excerpts((self._seed, block, part), self._batch, self._device)
                for part in range(self._size)
            ]
            self._pixels = torch.cat([(pixels * 127).to(torch.int8) for pixels, _ in parts])
            self._labels = {name: torch.cat([own[name] for _, own in parts]) for name in NAMES}
            self._block = block
        turn, number = divmod(within, self._size)
        order = np.random.default_rng((self._seed, block, self._size, turn)).permutation(
            len(self._pixels)
        )
        chosen = torch.from_numpy(order[number * self._batch :][: self._batch]).to(self._device)
        pixels = self._pixels[chosen].float().div_(127)
        return pixels, {name: values[chosen] for name, values in self._labels.items()}


def train_classifier(
    stage: Stage,
    recipe: ClassifierRecipe,
    model: AttributeClassifier,
    out: Path,
    device: torch.device,
    *,
    bfloat16: bool = True,
    report_every: int = 50,
    judged: int = 1024,
) -> dict[str, float]:
    """Train the classifier on renders and write it to ``out``.

    Resumable: the data of a step is a function of the recipe's seed and the step.

    Args:
        stage: Counts steps, keeps checkpoints and the log.
        recipe: Of this stage.
        model: What is trained, in place.
        out: safetensors file, float16.
        device: Where to train.
        bfloat16: Compute in bfloat16.
        report_every: Steps between lines of the log.
        judged: Unseen renders for the accuracy at the end.

    Returns:
        Accuracy on unseen renders of each attribute, and their ``mean``.
    """
    model.to(device).train()
    optimiser, average = Optimiser([model], recipe.peak), Average(model, recipe.decay)
    payload = stage.restore(device, model=model, optimiser=optimiser, average=average)
    weights = {name: recipe.subject_weight if name == "subject" else 1.0 for name in NAMES}

    worn = torch.Generator()
    footage = _Footage(recipe, device)
    for tick in stage.ticks(payload):
        worn.manual_seed(recipe.seed * 1_000_003 + tick.step)
        pixels, labels = footage.batch(tick.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(wear(pixels, worn))
            losses = [
                weight
                * functional.cross_entropy(logits[name].float(), labels[name], label_smoothing=0.02)
                for name, weight in weights.items()
            ]
            loss = torch.stack(losses).sum() / sum(weights.values())
        loss.backward()
        optimiser.step(tick.progress)
        average.update(model)
        if tick.step % report_every == 0:
            right = [(logits[name].argmax(1) == labels[name]).float().mean() for name in NAMES]
            figures = dict(zip(NAMES, torch.stack(right).tolist(), strict=True))
            stage.report(loss=float(loss.detach()), **figures)
    save_weights(out, average.module.state_dict(), torch.float16)
    verdicts = accuracy(load_classifier(out, device), judged, device, batch=min(recipe.batch, 64))
    result = {name: float(np.mean(right)) for name, right in verdicts.items()}
    return result | {"mean": float(np.mean(list(result.values())))}


def run_classifier(run: Run) -> dict[str, float]:
    """Train the evaluator's classifier, from finished weights if the run folder has them.

    Returns:
        See ``train_classifier``.

    Raises:
        TrainingError: the finished weights are of another shape, or a file could not be written.
    """
    recipe, out = run.recipe, run.finished("classifier")
    torch.manual_seed(recipe.seed)
    model = load_classifier(out) if out.exists() else AttributeClassifier()
    stage = run.stage("classifier", recipe.classifier.limits)
    return train_classifier(
        stage, recipe.classifier, model, out, run.device, bfloat16=recipe.bfloat16
    )


@torch.no_grad()
def accuracy(
    model: AttributeClassifier, count: int, device: torch.device, *, batch: int = 16
) -> dict[str, list[bool]]:
    """Judge unseen renders; returns for each attribute whether each verdict was right."""
    right: dict[str, list[bool]] = {name: [] for name in NAMES}
    for number in range(0, count, batch):
        pixels, labels = draw_excerpts((_UNSEEN_SEED, number), min(batch, count - number), device)
        for name, logit in model(pixels).items():
            right[name].extend((logit.argmax(1) == labels[name]).tolist())
    return right
