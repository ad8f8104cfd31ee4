"""From the world to training tensors: clips for the autoencoder, encoded windows for the network.

Both come from one seeded stream of scenes. A window item renders a clip twice, at its start and at a
later time up to minutes away; a share of the items change to a second scene with a cross-dissolve of
one chunk at a chunk's first pixel frame, as the viewer of a prompt change should see it. Knows nothing
of networks that are trained on it.
"""

import numpy as np
import torch
from torch import Tensor

from models.taehv import Taehv
from models.tokenizer import Tokenizer, token_ids
from models.train.captions import TrainingScenes
from models.train.recipe import Recipe
from models.train.windows import CHUNKS, Item
from models.train.world_render import render

WARM_LATENTS = 4
"""Latents encoded before a far window, so that the encoder's memory is that of a long stream."""


class Footage:
    """Renders batches for a recipe.

    Args:
        recipe: Picture size, rate and data settings.
        device: Where it renders.
        seed: Of the scenes and of everything else that is drawn.
    """

    def __init__(self, recipe: Recipe, device: torch.device, seed: int) -> None:
        self._recipe = recipe
        self._device = device
        self._scenes = TrainingScenes(seed)
        self._draw = np.random.default_rng([seed, 7])
        self._chunk_pixels = 4 * recipe.chunk_frames

    def clips(self, count: int, frames: int) -> Tensor:
        """Render ``count`` random clips ``[B, T, 3, h, w]`` in [-1, 1]."""
        scenes = self._scenes.draw(count).before
        start = self._draw.uniform(0.0, self._recipe.data.far_s, count)
        return self._render(scenes, start, frames)

    @torch.no_grad()
    def items(self, count: int, codec: Taehv, tokenizer: Tokenizer) -> Item:
        """Render and encode ``count`` window items."""
        recipe, chunk = self._recipe, self._recipe.chunk_frames
        drawn = self._scenes.draw(count)
        start_s = self._draw.uniform(0.0, 60.0, count)
        # Half of the far windows follow soon, half anywhere within ``far_s``.
        later = self._draw.uniform(
            0.0, np.where(self._draw.random(count) < 0.5, 6.0, recipe.data.far_s)
        )
        first_frames = 4 * CHUNKS * chunk - 3
        warm_frames = 4 * WARM_LATENTS - 3
        far_frames = warm_frames + 4 * (CHUNKS - 1) * chunk
        far_s = start_s + first_frames / recipe.fps + later
        changes = self._draw.random(count) < recipe.data.switch_share
        in_start = changes & (self._draw.random(count) < 0.5)
        start_switch = np.where(in_start, self._draw.integers(1, CHUNKS, count), 0)
        far_switch = np.where(changes & ~in_start, self._draw.integers(1, CHUNKS, count), 0)
        # A far window that is new from its first chunk on: half turn there, half turned long before.
        settled = in_start | ((far_switch == 1) & (self._draw.random(count) < 0.5))
        far_switch = np.where(in_start, 1, far_switch)
        first_turn = np.where(start_switch > 0, 4 * chunk * start_switch - 3, first_frames)
        far_turn = np.where(far_switch > 0, warm_frames + 4 * chunk * (far_switch - 1), far_frames)
        far_turn = np.where(settled, -self._chunk_pixels, far_turn)
        start = self._turning(drawn, start_s, first_frames, first_turn)
        far = self._turning(drawn, far_s, far_frames, far_turn)
        latents = [self._encode(codec, part) for part in (start, far)]
        texts = [text for pair in zip(*drawn.captions, strict=True) for text in pair]
        ids, mask = token_ids(tokenizer, texts, recipe.text.text_len)
        return Item(
            start=latents[0],
            far=latents[1][:, WARM_LATENTS:],
            start_switch=torch.from_numpy(start_switch).to(self._device),
            far_switch=torch.from_numpy(far_switch).to(self._device),
            text=ids.view(count, 2, -1).to(self._device),
            text_mask=mask.view(count, 2, -1).to(self._device),
        )
