"""The text encoder's start: it tells the attributes that a caption states, before it sees a picture.

The mean of a caption's embeddings must give each attribute, or that it is not stated, through one linear
layer that is thrown away afterwards. A network whose attention to the prompt is still uniform can then
read it from the first step; learned from pictures alone, the words of small things came last. Training
of the video network goes on changing the encoder. Knows nothing of pictures.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.text_encoder import UMT5
from models.tokenizer import Tokenizer, token_ids
from models.train.captions import caption_batch
from models.train.optimise import Average, Optimiser
from models.train.recipe import Recipe
from models.train.run_folder import Stage
from models.train.world_scene import ATTRIBUTES, NAMES, draw_scenes


class Reader(nn.Module):
    """A text encoder with one linear layer an attribute over the mean of its embeddings."""

    def __init__(self, text: UMT5) -> None:
        super().__init__()
        self.text = text
        self.heads = nn.ModuleList(
            nn.Linear(text.config.dim, len(values) + 1) for values in ATTRIBUTES.values()
        )

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Score ``ids [B, P]``: for each attribute ``[B, values + 1]``, the last for "not stated"."""
        mean = self.text(ids, mask).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return [head(mean) for head in self.heads]


def labelled(
    count: int, tokenizer: Tokenizer, length: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw captions: ids and mask ``[B, P]``, trimmed, and codes ``[B, 7]`` of what they state."""
    scenes = draw_scenes(draw, count)
    captions = caption_batch(scenes, draw)
    ids, mask = token_ids(tokenizer, [caption.text for caption in captions], length, trim=True)
    codes = torch.from_numpy(scenes.codes.copy())
    for row, caption in enumerate(captions):
        for column, (name, values) in enumerate(ATTRIBUTES.items()):
            if name not in caption.stated:
                codes[row, column] = len(values)
    return ids, mask, codes


def train_text(
    stage: Stage, recipe: Recipe, text: UMT5, tokenizer: Tokenizer, device: torch.device
) -> UMT5:
    """Train ``text`` in place; returns its average."""
    part = recipe.text_start
    reader = Reader(text).to(device)
    optimiser = Optimiser([reader], part.peak, weight_decay=0.0)
    average = Average(reader, 0.98)
    payload = stage.restore(device, reader=reader, optimiser=optimiser, average=average)

    draw = np.random.default_rng(recipe.seed + 404 + stage.step)
    for tick in stage.ticks(payload):
        made = labelled(part.batch, tokenizer, recipe.text.text_len, draw)
        ids, mask, codes = (value.to(device) for value in made)
        scores = reader(ids, mask)
        loss = sum(
            (
                functional.cross_entropy(score, code)
                for score, code in zip(scores, codes.T, strict=True)
            ),
            torch.zeros((), device=device),
        )
        loss.backward()
        optimiser.step(tick.progress)
        average.update(reader)
        if tick.step % 20 == 0:
            right = [
                (score.argmax(1) == code).float().mean().item()
                for score, code in zip(scores, codes.T, strict=True)
            ]
            stage.report(loss=loss.item(), **dict(zip(NAMES, right, strict=True)))
    stage.draw_curve(("loss",))
    finished = average.module
    assert isinstance(finished, Reader)
    return finished.text
