"""What the network is trained on: windows of four chunks as the serving cache would hold them.

A stream that has run for a while attends to its sink (the first chunk it ever made) and to the most
recent chunks; nothing tells how much time lies between. So a training window is either the *start* of
a clip, or its first chunk followed by three chunks from much later (*far*). Positions are counted
inside the window, which is why a stream of this model has no last frame.

A window may hold a change of prompt: chunks before ``switch`` show the old scene, chunks from it on
turn into the new one, and the prompt is the new one throughout, because the engine recomputes the
window's keys under the new prompt. Only chunks from the switch on are asked of the network.

Knows nothing of losses; holds the latents of many items on one device and deals batches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Item:
    """A batch of freshly made items.

    Attributes:
        start: ``[B, F, C, H, W]`` the first four chunks of each clip.
        far: ``[B, F - f, C, H, W]`` three chunks from later in the same clip.
        start_switch: ``[B]`` first chunk of the new prompt in the start window, 0 for no change.
        far_switch: ``[B]`` the same for the window of the sink and ``far``; 1 means that all of
            ``far`` already shows (or turns into) the new scene.
        start_cover: ``[B, F, H, W]`` how much of each latent the subject's surroundings cover.
        far_cover: ``[B, F - f, H, W]`` the same.
        text: ``[B, 2, P]`` token ids of the old and the new prompt (equal without a change).
        text_mask: ``[B, 2, P]`` true where ``text`` is a token.
    """

    start: Tensor
    far: Tensor
    start_cover: Tensor
    far_cover: Tensor
    start_switch: Tensor
    far_switch: Tensor
    text: Tensor
    text_mask: Tensor


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows to train on.

    Attributes:
        latents: ``[B, F, C, H, W]`` clean latents of four chunks.
        first: ``[B]`` index of the first chunk the network is asked for; those before are given.
        ids: ``[B, P]`` token ids of the prompt that holds for the whole window.
        mask: ``[B, P]`` true where ``ids`` is a token.
        is_far: ``[B]`` true where chunks 1 to 3 come from later than chunk 0.
        cover: ``[B, F, H, W]`` how much of each latent the subject's surroundings cover.
    """

    latents: Tensor
    cover: Tensor
    first: Tensor
    ids: Tensor
    mask: Tensor
    is_far: Tensor

    @property
    def first_causal(self) -> Tensor:
        """The first chunk ``[B]`` that a causal pass is asked for: not one with only its sink in sight.

        No stream asks for such a chunk: in a far window the first of the recent ones is given.
        """
        return torch.where(self.is_far, self.first.clamp_min(2), self.first)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of streams: ``ids`` and ``mask`` ``[B, 2, P]``, before and after a change."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Opening:
    """First chunks of streams, with nothing before them.

    Attributes:
        latents: ``[B, f, C, H, W]`` clean latents of one chunk.
        cover: ``[B, f, H, W]`` how much of each latent the subject's surroundings cover.
        ids: ``[B, P]`` token ids of the prompt.
        mask: ``[B, P]`` true where ``ids`` is a token.
    """

    latents: Tensor
    cover: Tensor
    ids: Tensor
    mask: Tensor


class OpeningStore:
    """A ring of first chunks: cheap to make, and all that they show comes from their prompt.

    Args:
        capacity: How many it keeps.
        make: Makes the next few.
    """

    def __init__(self, capacity: int, make: Callable[[], Opening]) -> None:
        self._make = make
        self._capacity = capacity
        self._held: Opening | None = None

    def refresh(self) -> None:
        """Make a few; beyond the capacity the oldest ones go."""
        new, held = self._make(), self._held
        if held is not None:

            def joined(old: Tensor, more: Tensor) -> Tensor:
                return torch.cat((old, more))[-self._capacity :]

            new = Opening(
                joined(held.latents, new.latents),
                joined(held.cover, new.cover),
                joined(held.ids, new.ids),
                joined(held.mask, new.mask),
            )
        self._held = new

    def sample(self, size: int, generator: torch.Generator) -> Opening:
        """Deal ``size`` random ones."""
        if self._held is None:
            self.refresh()
        held = self._held
        assert held is not None
        device = held.latents.device
        pick = torch.randint(len(held.ids), (size,), generator=generator, device=device)
        return Opening(held.latents[pick], held.cover[pick], held.ids[pick], held.mask[pick])


class WindowStore:
    """A ring of items in device memory, refreshed while training goes on.

    Args:
        capacity: How many items it keeps.
        make: Makes the next batch of items.
    """

    def __init__(self, capacity: int, make: Callable[[], Item]) -> None:
        self._make = make
        self._capacity = capacity
        self._held: dict[str, Tensor] = {}
        self._next = 0
        self.made = 0

    def __len__(self) -> int:
        return min(self.made, self._capacity)

    def refresh(self) -> None:
        """Make one batch of items; the oldest ones make room."""
        item = self._make()
        parts = {
            "start": item.start.bfloat16(),
            "far": item.far.bfloat16(),
            "start_cover": item.start_cover.bfloat16(),
            "far_cover": item.far_cover.bfloat16(),
            "start_switch": item.start_switch,
            "far_switch": item.far_switch,
            "text": item.text,
            "text_mask": item.text_mask,
        }
        count = item.start.shape[0]
        if not self._held:
            self._held = {
                name: part.new_empty((self._capacity, *part.shape[1:]))
                for name, part in parts.items()
            }
        places = (torch.arange(count, device=item.start.device) + self._next) % self._capacity
        for name, part in parts.items():
            self._held[name][places] = part
        self._next = (self._next + count) % self._capacity
        self.made += count

    def fill(self, count: int | None = None, *, quiet: bool = False) -> None:
        """Make items until there are ``count``, by default until the ring is full."""
        count = min(count or self._capacity, self._capacity)
        with tqdm(total=count, desc="windows", disable=quiet) as bar:
            while self.made < count:
                before = len(self)
                self.refresh()
                bar.update(len(self) - before)

    def prompts(self, size: int, generator: torch.Generator, *, changed: bool) -> Prompts:
        """Deal prompts of ``size`` items; with ``changed``, of items whose prompt changes."""
        held = self._held
        device = held["start"].device
        odds = torch.ones(len(self), device=device)
        if changed:
            odds = odds * (held["far_switch"][: len(self)] > 0)
        pick = torch.multinomial(odds, size, replacement=True, generator=generator)
        ids, mask = held["text"][pick], held["text_mask"][pick]
        if not changed:
            ids, mask = ids[:, :1].expand(-1, 2, -1), mask[:, :1].expand(-1, 2, -1)
        return Prompts(ids, mask)

    def sample(self, size: int, generator: torch.Generator) -> WindowBatch:
        """Deal one batch of ``size`` random windows."""
        held = self._held
        device = held["start"].device
        pick = torch.randint(len(self), (size,), generator=generator, device=device)
        is_far = torch.rand(size, generator=generator, device=device) < 0.5
        frames = held["start"].shape[1] // CHUNKS

        def window(part: str) -> Tensor:
            start = held[f"start{part}"][pick]
            with_far = torch.cat((start[:, :frames], held[f"far{part}"][pick]), dim=1)
            return torch.where(is_far.view(-1, *(1,) * (start.ndim - 1)), with_far, start)

        switch = torch.where(is_far, held["far_switch"][pick], held["start_switch"][pick])
        # A start window without a change is asked for whole. A far one is, too, half of the time;
        # the other half takes its sink as given, which is how the distillation scores long streams.
        given_sink = is_far & (torch.rand(size, generator=generator, device=device) < 0.5)
        first = torch.maximum(switch, given_sink.long())
        row = torch.arange(size, device=device)
        which = (switch > 0).long()
        return WindowBatch(
            latents=window("").float(),
            cover=window("_cover").float(),
            first=first,
            ids=held["text"][pick][row, which],
            mask=held["text_mask"][pick][row, which],
            is_far=is_far,
        )
