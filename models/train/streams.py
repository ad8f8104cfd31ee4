"""Whole streams to compare a rollout with: a prompt, perhaps a second one, and what they describe.

Where a prompt says all that there is to see (``DataRecipe.one_view``), a stream has one right picture
at every time. Knows nothing of losses; holds the latents of many streams on one device and deals batches
whose prompts change at one chunk.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.train.chance import below
from models.train.windows import Prompts


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """Streams of one length whose prompt changes at one chunk, or never.

    Attributes:
        latents: ``[B, F, C, H, W]`` what should be seen, from a stream's first chunk on.
        cover: ``[B, F, H, W]`` how much of each latent the subject's surroundings cover.
        prompts: Before and after the change, equal without one.
        switch: First chunk of the second prompt, None for no change.
    """

    latents: Tensor
    cover: Tensor
    prompts: Prompts
    switch: int | None

    def rows(self, pick: Tensor) -> "StreamBatch":
        """Return the rows ``pick`` as a batch."""
        prompts = Prompts(self.prompts.ids[pick], self.prompts.mask[pick])
        return StreamBatch(self.latents[pick], self.cover[pick], prompts, self.switch)


class StreamStore:
    """A ring of groups of streams, each group alike in where its prompts change.

    Args:
        groups: How many it keeps.
        make: Makes the next group.
    """

    def __init__(self, groups: int, make: Callable[[], StreamBatch]) -> None:
        self._make = make
        self._held: deque[StreamBatch] = deque(maxlen=groups)

    def refresh(self) -> None:
        """Make a group; beyond the capacity the oldest one goes."""
        self._held.append(self._make())

    def sample(self, size: int, draw: torch.Generator) -> StreamBatch:
        """Deal ``size`` random streams of a random group; ``draw`` is on the host."""
        if not self._held:
            self.refresh()
        group = self._held[below(len(self._held), draw)]
        pick = torch.randint(len(group.latents), (size,), generator=draw)
        return group.rows(pick.to(group.latents.device))
