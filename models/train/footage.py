"""From the world to training tensors: clips for the autoencoder, encoded windows for the network.

Both come from one seeded stream of scenes. A window item renders a clip twice, at its start and at a
later time up to minutes away; a share of the items change to a second scene with a cross-dissolve of
one chunk at a chunk's first pixel frame, as the viewer of a prompt change should see it. Knows nothing
of networks that are trained on it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.tokenizer import Tokenizer, token_ids
from models.train.captions import caption_batch
from models.train.recipe import Recipe
from models.train.streams import StreamBatch
from models.train.windows import CHUNKS, Item, Opening, Prompts
from models.train.world_motion import anchored, opened, subject_cover
from models.train.world_render import render, render_switch
from models.train.world_scene import ATTRIBUTES, SceneBatch, as_said, change_some, draw_scenes

WARM_LATENTS = 4
"""Latents encoded before a far window, so that the encoder's memory is that of a long stream."""

_START_S = 600.0
_NEVER = 10**6  # frames: longer than any clip


@dataclass(frozen=True, slots=True)
class _Clip:
    """What to render: first frame of each row, and the frame at which a row's scene turns.

    Frames are world frames ``[B]``; a turn outside the clip leaves it all old or all new.
    """

    begin: NDArray[np.int64]
    frames: int
    turn: NDArray[np.int64]


def _moving(scenes: SceneBatch) -> NDArray[np.int64]:
    """Count what moves in a scene ``[B]``, of its subject and its camera."""
    names = ("motion", "camera")
    moves = [scenes.column(name) != ATTRIBUTES[name].index("still") for name in names]
    return np.sum(moves, axis=0, dtype=np.int64)


class Footage:
    """Renders batches for a recipe.

    Args:
        recipe: Picture size, rate and data settings.
        device: Where it renders.
        seed: Of the scenes and of everything else that is drawn; one number or several.
    """

    def __init__(self, recipe: Recipe, device: torch.device, seed: int | tuple[int, ...]) -> None:
        self._recipe = recipe
        self._device = device
        self._draw = np.random.default_rng(seed)

    def clips(self, count: int, frames: int, crop: int | None = None) -> Tensor:
        """Render ``count`` random clips ``[B, T, 3, h, w]`` in [-1, 1], cut to ``crop`` if given."""
        scenes, begin = draw_scenes(self._draw, count), self._moments(count)
        size = (self._recipe.width, self._recipe.height)
        pixels = render(scenes, begin, frames, size=size, device=self._device)
        if crop is None:
            return pixels
        tops = self._draw.integers(0, size[1] - crop + 1, count).tolist()
        lefts = self._draw.integers(0, size[0] - crop + 1, count).tolist()
        return torch.stack(
            [
                clip[..., top : top + crop, left : left + crop]
                for clip, top, left in zip(pixels, tops, lefts, strict=True)
            ]
        )

    @torch.no_grad()
    def items(self, count: int, encode: Callable[[Tensor], Tensor], tokenizer: Tokenizer) -> Item:
        """Render and encode ``count`` window items; ``encode`` turns whole clips into latents."""
        recipe, draw = self._recipe, self._draw
        chunk = 4 * recipe.chunk_frames  # pixel frames
        warm = 4 * WARM_LATENTS - 3
        changes = draw.random(count) < recipe.data.switch_share
        in_start = changes & (draw.random(count) < 0.5)
        start_switch = np.where(in_start, draw.integers(1, CHUNKS, count), 0)
        far_switch = np.where(changes & ~in_start, draw.integers(1, CHUNKS, count), 0)
        # A far window that is new from its first chunk on either turns there or did so long before.
        settled = in_start | ((far_switch == 1) & (draw.random(count) < 0.5))
        far_switch = np.where(in_start, 1, far_switch)

        begin = self._begins(count)
        length = CHUNKS * chunk - 3
        never = begin + _NEVER
        turn = np.where(start_switch > 0, begin + chunk * start_switch - 3, never)
        start = _Clip(begin, length, turn)
        # Half of the far windows follow soon, half anywhere within ``far_s``.
        gap_s = np.where(draw.random(count) < 0.5, 6.0, recipe.data.far_s)
        # The far window's first latent to be kept begins a chunk of the stream.
        gap = (draw.random(count) * gap_s * recipe.fps).astype(np.int64) // chunk * chunk
        later = begin + length - warm % chunk + gap
        far_turn = np.where(far_switch > 0, later + warm + chunk * (far_switch - 1), never)
        far_turn = np.where(settled & ~in_start, later - chunk, np.where(in_start, turn, far_turn))
        far = _Clip(later, warm + (CHUNKS - 1) * chunk, far_turn)

        before, old_texts = self._opened(begin)
        meeting_s = np.where(in_start, turn, far_turn) / recipe.fps
        changed, new_texts = self._told(change_some(draw, before))
        after = anchored(before, changed, np.where(changes, meeting_s, 0.0))
        prompts = self._prompts(old_texts, new_texts, tokenizer)
        device = self._device
        return Item(
            start=encode(self._film(before, after, start)),
            far=encode(self._film(before, after, far))[:, WARM_LATENTS:],
            start_cover=self._cover(before, after, start),
            far_cover=self._cover(before, after, far)[:, WARM_LATENTS:],
            start_switch=torch.from_numpy(start_switch).to(device),
            far_switch=torch.from_numpy(far_switch).to(device),
            text=prompts.ids,
            text_mask=prompts.mask,
        )

    @torch.no_grad()
    def openings(
        self, count: int, encode: Callable[[Tensor], Tensor], tokenizer: Tokenizer
    ) -> Opening:
        """Render and encode the first chunks of ``count`` streams."""
        recipe = self._recipe
        begin = self._begins(count)
        scenes, texts = self._opened(begin)
        clip = _Clip(begin, 4 * recipe.chunk_frames - 3, begin + _NEVER)
        ids, mask = token_ids(tokenizer, texts, recipe.text.text_len)
        return Opening(
            latents=encode(self._film(scenes, scenes, clip)),
            cover=self._cover(scenes, scenes, clip),
            ids=ids.to(self._device),
            mask=mask.to(self._device),
        )

    @torch.no_grad()
    def streams(
        self,
        count: int,
        chunks: int,
        switch: int | None,
        encode: Callable[[Tensor], Tensor],
        tokenizer: Tokenizer,
    ) -> tuple[Tensor, StreamBatch]:
        """Render and encode the first ``chunks`` chunks of streams that change at chunk ``switch``.

        Returns:
            Pixels ``[B, T, 3, h, w]`` in [-1, 1], and the streams.
        """
        recipe = self._recipe
        chunk = 4 * recipe.chunk_frames  # pixel frames
        begin = self._begins(count)
        before, old_texts = self._opened(begin)
        after, new_texts, turn = before, old_texts, begin + _NEVER
        if switch is not None:
            turn = begin + chunk * switch - 3
            changed, new_texts = self._livelier(lambda: self._told(change_some(self._draw, before)))
            after = anchored(before, changed, turn / recipe.fps)
        clip = _Clip(begin, chunks * chunk - 3, turn)
        pixels = self._film(before, after, clip)
        return pixels, StreamBatch(
            latents=encode(pixels),
            cover=self._cover(before, after, clip),
            prompts=self._prompts(old_texts, new_texts, tokenizer),
            switch=switch,
        )

    def _prompts(self, old: list[str], new: list[str], tokenizer: Tokenizer) -> Prompts:
        """Encode the captions before and after a change."""
        texts = [text for pair in zip(old, new, strict=True) for text in pair]
        ids, mask = token_ids(tokenizer, texts, self._recipe.text.text_len)
        pairs = (part.view(len(old), 2, -1).to(self._device) for part in (ids, mask))
        return Prompts(*pairs)

    def _opened(self, begin: NDArray[np.int64]) -> tuple[SceneBatch, list[str]]:
        """Draw and caption the scenes of streams that begin at world frames ``begin [B]``."""
        middle = self._recipe.width / self._recipe.height / 2
        scenes, texts = self._livelier(lambda: self._drawn(len(begin)))
        return opened(scenes, begin, middle), texts

    def _livelier(
        self, drawn: Callable[[], tuple[SceneBatch, list[str]]]
    ) -> tuple[SceneBatch, list[str]]:
        """Draw scenes with their captions; where the recipe is lively twice, and take those that move more."""
        scenes, texts = drawn()
        if self._recipe.data.lively:
            others, other_texts = drawn()
            row = np.arange(len(scenes)) + len(scenes) * (_moving(others) > _moving(scenes))
            scenes = SceneBatch.joined((scenes, others)).rows(row)
            texts = [[*texts, *other_texts][index] for index in row]
        return scenes, texts

    def _drawn(self, count: int) -> tuple[SceneBatch, list[str]]:
        """Draw and caption ``count`` scenes."""
        scenes = draw_scenes(self._draw, count)
        if self._recipe.data.one_view:
            scenes = replace(scenes, layout_seed=np.zeros_like(scenes.layout_seed))
        return self._told(scenes)

    def _told(self, scenes: SceneBatch) -> tuple[SceneBatch, list[str]]:
        """Caption scenes; with one view, what a caption leaves unsaid is then as it always is."""
        captions = caption_batch(scenes, self._draw)
        if self._recipe.data.one_view:
            scenes = as_said(scenes, [caption.stated for caption in captions])
        return scenes, [caption.text for caption in captions]

    def _begins(self, count: int) -> NDArray[np.int64]:
        """Say at which world frames ``[count]`` streams begin."""
        if self._recipe.data.one_view:
            return np.zeros(count, dtype=np.int64)
        return self._moments(count)

    def _moments(self, count: int) -> NDArray[np.int64]:
        """Draw world frames ``[count]``."""
        return self._draw.integers(0, int(_START_S * self._recipe.fps), count)

    def _cover(self, before: SceneBatch, after: SceneBatch, clip: _Clip) -> Tensor:
        """Where the subject is, for every latent of a clip: ``[B, F, H, W]`` from 0 to 1."""
        recipe = self._recipe
        frame = clip.begin[:, None] + np.arange(clip.frames)
        grid = recipe.latent_frame[1:]
        cover = subject_cover(before, frame, grid, self._device)
        turned = frame >= clip.turn[:, None]
        if turned.any():
            after_it = torch.from_numpy(turned)[..., None, None].to(self._device)
            cover = torch.where(after_it, subject_cover(after, frame, grid, self._device), cover)
        # The first latent is one picture, every other one four.
        later = cover[:, 1:].unflatten(1, (-1, 4)).mean(dim=2)
        return torch.cat((cover[:, :1], later), dim=1)

    def _film(self, before: SceneBatch, after: SceneBatch, clip: _Clip) -> Tensor:
        """Render a clip; only rows that hold both scenes cost two renders."""
        size = (self._recipe.width, self._recipe.height)
        dissolve = 4 * self._recipe.chunk_frames
        out = torch.empty(len(before), clip.frames, 3, size[1], size[0], device=self._device)
        old = clip.turn >= clip.begin + clip.frames
        new = clip.turn + dissolve <= clip.begin
        for rows, scenes in ((old, before), (new, after)):
            at = np.flatnonzero(rows)
            if len(at):
                pixels = render(
                    scenes.rows(at), clip.begin[at], clip.frames, size=size, device=self._device
                )
                out[torch.from_numpy(at).to(self._device)] = pixels
        at = np.flatnonzero(~old & ~new)
        if len(at):
            out[torch.from_numpy(at).to(self._device)] = render_switch(
                before.rows(at),
                after.rows(at),
                clip.turn[at],
                clip.begin[at],
                clip.frames,
                dissolve_frames=dissolve,
                size=size,
                device=self._device,
            )
        return out
