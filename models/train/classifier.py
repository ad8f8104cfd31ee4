"""A small video classifier of the world's attributes: what the evaluator sees with.

It looks at two seconds (every fourth of 32 frames, at half the size) and says for each
of the seven attributes which value it sees. Trained on renders only, see
``classifier_training.py``. Knows nothing of prompts or of how clips were made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from models.train.run_folder import TrainingError
from models.train.world_scene import ATTRIBUTES, NAMES

EXCERPT_FRAMES = 32
"""Frames of an excerpt: two seconds."""

STRIDE = 4
"""Frames from one that it looks at to the next."""

SIZE = (48, 80)
"""Rows and columns that it looks at."""

FEATURES = 256
CLASSIFIER_FILE = Path(__file__).parents[1] / "weights" / "attributes" / "classifier.safetensors"

_WIDTH = 192


class _Stage(nn.Module):
    """Shrinks the picture and mixes neighbouring frames."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, stride_t: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(
            width_in, width, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.space_norm = nn.GroupNorm(8, width)
        self.time = nn.Conv3d(
            width, width, (3, 1, 1), stride=(stride_t, 1, 1), padding=(1, 0, 0), bias=False
        )
        self.time_norm = nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, c, h, w]`` to ``[B, T / stride_t, c', h / stride, w / stride]``."""
        batch = x.shape[0]
        x = functional.silu(self.space_norm(self.space(x.flatten(0, 1))))
        x = x.unflatten(0, (batch, -1)).transpose(1, 2)
        mixed = self.time(x)
        if mixed.shape == x.shape:
            mixed = mixed + x
        return functional.silu(self.time_norm(mixed)).transpose(1, 2)


class AttributeClassifier(nn.Module):
    """Convolutions over space and time; every attribute looks where it wants to, then decides."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _Stage(6, 32, 5, 2, 1),
            _Stage(32, 64, 3, 2, 1),
            _Stage(64, 128, 3, 2, 2),
            _Stage(128, _WIDTH, 3, 1, 2),
        )
        self.look = nn.Linear(_WIDTH, len(NAMES))
        self.project = nn.Sequential(nn.Linear((len(NAMES) + 2) * _WIDTH, FEATURES), nn.SiLU())
        self.heads = nn.ModuleDict(
            {f"{name}_head": nn.Linear(FEATURES, len(ATTRIBUTES[name])) for name in NAMES}
        )

    def features(self, excerpt: Tensor) -> Tensor:
        """Return ``[B, FEATURES]`` of excerpts ``[B, 8, 3, 48, 80]`` in [-1, 1]."""
        # What has changed since the frame before is given, not left to be found.
        change = torch.diff(excerpt, dim=1, prepend=excerpt[:, :1])
        seen_with_change = torch.cat([excerpt, 4 * change], dim=2)
        spots = self.stages(seen_with_change).transpose(2, 4).flatten(1, 3)  # [B, T * w * h, c]
        seen = self.look(spots).softmax(1).transpose(1, 2) @ spots  # [B, attributes, c]
        whole = torch.cat([seen.flatten(1), spots.mean(1), spots.amax(1)], dim=1)
        return self.project(whole)

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Return for each attribute ``[B, values]``."""
        return {name: self.heads[f"{name}_head"](features) for name in NAMES}

    def forward(self, excerpt: Tensor) -> dict[str, Tensor]:
        """Return logits of excerpts ``[B, 8, 3, 48, 80]`` in [-1, 1]."""
        return self.logits(self.features(excerpt))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier sees in clips.

    Attributes:
        probability: For each attribute ``[B, values]``, averaged over a clip's excerpts.
        features: ``[B, FEATURES]``, averaged likewise.
    """

    probability: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float32]

    def values(self, name: str) -> list[str]:
        """Return the likeliest value of an attribute for every clip."""
        return [ATTRIBUTES[name][code] for code in self.probability[name].argmax(1)]


@torch.no_grad()
def classify(
    model: AttributeClassifier, clips: Tensor, *, hop: int = EXCERPT_FRAMES, at_once: int = 16
) -> Verdict:
    """Look at clips of one length.

    Args:
        model: A trained classifier.
        clips: ``[B, T, 3, H, W]`` in [-1, 1] at 16 frames a second, T at least 32; other
            sizes than 160x96 are scaled.
        hop: Frames between the starts of excerpts; the last excerpt ends with the clip.
        at_once: Excerpts in one pass.
    """
    frames = clips.shape[1]
    if frames < EXCERPT_FRAMES:
        raise ValueError(
            f"a clip of {frames} frames; the classifier needs {EXCERPT_FRAMES}; make a longer clip"
        )
    starts = sorted({*range(0, frames - EXCERPT_FRAMES + 1, hop), frames - EXCERPT_FRAMES})
    excerpts = torch.stack([clips[:, s : s + EXCERPT_FRAMES : STRIDE] for s in starts], dim=1)
    flat = excerpts.flatten(0, 1)
    device = next(model.parameters()).device
    parts = []
    for begin in range(0, len(flat), at_once):
        part = shrink(flat[begin : begin + at_once].to(device, torch.float32))
        parts.append(model.features(part))
    features = torch.cat(parts)
    shape = (len(clips), len(starts), -1)
    probability = {
        name: logit.softmax(1).view(shape).mean(1).cpu().numpy()
        for name, logit in model.logits(features).items()
    }
    return Verdict(probability, features.view(shape).mean(1).cpu().numpy())


def shrink(frames: Tensor) -> Tensor:
    """Scale ``[B, T, 3, H, W]`` to the size the classifier looks at."""
    flat = frames.flatten(0, 1)
    height, width = flat.shape[-2:]
    if (height, width) == (2 * SIZE[0], 2 * SIZE[1]):
        flat = functional.avg_pool2d(flat, 2)
    elif (height, width) != SIZE:
        flat = functional.interpolate(
            flat, SIZE, mode="bilinear", antialias=True, align_corners=False
        )
    return flat.unflatten(0, frames.shape[:2])


def load_classifier(
    path: Path = CLASSIFIER_FILE, device: torch.device | str = "cpu"
) -> AttributeClassifier:
    """Load a trained classifier.

    Raises:
        TrainingError: the file is missing or of another shape.
    """
    if not path.is_file():
        raise TrainingError(
            f"no classifier at {path}; the evaluator cannot judge clips without one; "
            "run `python -m models.train classifier` and name what it makes with --classifier"
        )
    model = AttributeClassifier()
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise TrainingError(
            f"{path} does not fit this version's classifier ({error}); "
            "run `python -m models.train classifier` to train one that does, and name it with --classifier"
        ) from error
    return model.to(device).eval()
