"""A session's page table: which pages hold the keys of which latent frames.

A session gets one extent of frame slots when it opens. Slots fill from the front; when all are
taken, the oldest frames that are not sink give theirs to the newest, so that what is attended is
always a prefix of the extent, and one slice of the pool where the extent is contiguous::

    slot      0 ... S-1 | S ............... W-1
    holds     sink      | ring of the newest frames
    order     0 ... S-1 | oldest .. newest, anywhere in the ring

The window counts every attended latent frame, sink and current chunk included (upstream's
local_attn_size). Eviction is by frame, as in Self Forcing (Huang et al. 2025, arXiv:2506.08009);
the recache keeps or moves the sink as in LongLive (Yang et al. 2025, arXiv:2509.22622). This
module knows neither tensors nor what a key is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.page_pool import NULL_PAGE, PagePool
from models.paged_kv import RowPages
from models.policy import RopeMode


class OutOfPagesError(RuntimeError):
    """The pool has no page for a write to a shared slot."""


class PageTable:
    """Maps one session's latent frames to pages. Made by ``open`` or ``fork``.

    Args:
        pool: Where the pages come from and go back to.
        slots: Pages of each frame slot.
        sink_frames: Leading frames that are never evicted.
        rope: Whether temporal positions count from the start of the stream or of the window.
    """

    def __init__(
        self, pool: PagePool, slots: list[tuple[int, ...]], sink_frames: int, rope: RopeMode
    ) -> None:
        assert 0 <= sink_frames <= len(slots), (sink_frames, len(slots))
        self._pool = pool
        self._slots = slots
        self._sink = sink_frames
        self._rope: RopeMode = rope
        self._free = deque(range(len(slots)))
        self._held: list[tuple[int, int]] = []  # (frame number, slot), in logical order
        self._next_frame = 0

    @classmethod
    def open(
        cls,
        pool: PagePool,
        window_frames: int,
        sink_frames: int,
        pages_per_frame: int,
        rope: RopeMode,
    ) -> PageTable | None:
        """Take a whole extent from ``pool``; None when it has not that many pages."""
        pages = pool.allocate(window_frames * pages_per_frame)
        if pages is None:
            return None
        slots = [
            pages[start : start + pages_per_frame]
            for start in range(0, len(pages), pages_per_frame)
        ]
        return cls(pool, slots, sink_frames, rope)

    @property
    def capacity(self) -> int:
        """Latent frames the extent holds."""
        return len(self._slots)

    @property
    def frames(self) -> tuple[int, ...]:
        """Frame numbers held, in logical order: sink first, then oldest to newest."""
        return tuple(frame for frame, _ in self._held)

    @property
    def next_frame(self) -> int:
        """Number that the next latent frame gets."""
        return self._next_frame

    @property
    def pages(self) -> tuple[int, ...]:
        """Every page of the extent, filled or not."""
        return tuple(page for slot in self._slots for page in slot)

    @property
    def logical_pages(self) -> tuple[int, ...]:
        """Pages of the held frames, in logical order."""
        return tuple(page for _, slot in self._held for page in self._slots[slot])

    def append(self, frames: int) -> None:
        """Make room for the next ``frames`` latent frames, evicting the oldest beyond the sink.

        Called once a chunk: its passes overwrite one another's values in the same slots.
        """
        overflow = len(self._held) + frames - self.capacity
        if overflow > 0:
            evicted = self._held[self._sink : self._sink + overflow]
            assert len(evicted) == overflow, (
                f"{frames} frames do not fit a window of {self.capacity} with {self._sink} sink"
            )
            del self._held[self._sink : self._sink + overflow]
            self._free.extend(slot for _, slot in evicted)
        for _ in range(frames):
            slot = self._free.popleft()
            self._own(slot)
            self._held.append((self._next_frame, slot))
            self._next_frame += 1

    def row(self, frames: int) -> RowPages:
        """Describe a pass over the newest ``frames`` latent frames: write them, attend to all."""
        first = len(self._held) - frames
        assert first >= 0, (frames, len(self._held))
        written = self._held[first:]
        order = self._slot_order()
        return RowPages(
            write=tuple(page for _, slot in written for page in self._slots[slot]),
            read=tuple(page for i in order for page in self._slots[self._held[i][1]]),
            query_frames=tuple(self._position(first + i) for i in range(frames)),
            key_frames=tuple(self._position(i) for i in order),
            past=tuple(0 < i < first for i in order),
        )

    def recache(self, keep_sink: bool) -> RowPages:
        """Describe one pass that rebuilds the window from its newest clean latents.

        The pass covers the newest ``capacity`` frames, or all of a younger stream. Once the sink
        has parted from them, either it stays as it is (``keep_sink``): then the first queries have
        no slot, their keys go to the null page and they attend to the old sink. Or the whole
        extent is handed to the newest frames, whose first become the sink.
        """
        count = min(self.capacity, self._next_frame)
        start = self._next_frame - count
        if start == 0 or not keep_sink:
            self._held = [(start + i, i) for i in range(count)]
            self._free = deque(range(count, self.capacity))
        unwritten = self._sink if start > 0 and keep_sink else 0
        per_frame = len(self._slots[0])
        write = [NULL_PAGE] * (unwritten * per_frame)
        for _, slot in self._held[unwritten:]:
            self._own(slot)
            write.extend(self._slots[slot])
        order = self._slot_order()
        first = start if self._rope == "absolute" else 0
        return RowPages(
            write=tuple(write),
            read=tuple(page for i in order for page in self._slots[self._held[i][1]]),
            query_frames=tuple(range(first, first + count)),
            key_frames=tuple(self._position(i) for i in order),
        )

    def clear(self) -> None:
        """Forget every frame and count from 0 again; the extent stays."""
        self._held = []
        self._free = deque(range(self.capacity))
        self._next_frame = 0

    def fork(self) -> PageTable:
        """Return a second table on the same pages; whichever writes first takes other pages.

        Nothing is ever copied: a write covers whole latent frames, so what a shared slot held is
        not needed by the one who writes it.
        """
        self._pool.share(self.pages)
        twin = PageTable(self._pool, list(self._slots), self._sink, self._rope)
        twin._free = deque(self._free)
        twin._held = list(self._held)
        twin._next_frame = self._next_frame
        return twin

    def held(self) -> list[tuple[int, int]]:
        """Return (frame number, slot) of every held frame in logical order, for ``restore``."""
        return list(self._held)

    def restore(self, held: Sequence[tuple[int, int]], next_frame: int) -> None:
        """Take on another table's places; the pages' content is the caller's business."""
        taken = {slot for _, slot in held}
        assert len(taken) == len(held) <= self.capacity, (held, self.capacity)
        self._held = list(held)
        self._next_frame = next_frame
        # Slots fill from the front, so what is free of a filled extent has never been used.
        self._free = deque(slot for slot in range(self.capacity) if slot not in taken)

    def close(self) -> None:
        """Give every page back; the table must not be used again."""
        self._pool.release(self.pages)
        self._slots = []

    def _own(self, slot: int) -> None:
        """Put pages that nobody else holds under ``slot`` before it is written."""
        pages = self._slots[slot]
        if all(self._pool.references(page) == 1 for page in pages):
            return
        fresh = self._pool.allocate(len(pages))
        if fresh is None:
            raise OutOfPagesError(
                f"{len(pages)} pages needed to write to a shared frame, {self._pool.free} free; "
                "end another session or give the pool more memory"
            )
        self._pool.release(pages)
        self._slots[slot] = fresh

    def _position(self, logical: int) -> int:
        return logical if self._rope == "window" else self._held[logical][0]

    def _slot_order(self) -> list[int]:
        """Return the logical places in slot order: softmax does not mind, and it is one slice."""
        return sorted(range(len(self._held)), key=lambda logical: self._held[logical][1])
