"""Reference-counted page numbers; allocation that prefers one contiguous run.

A page is a number here: which tensor rows it names is the KV pool's business. Page 0 is the null
page, never handed out, where padding rows write. The design of the counts follows PagedAttention
(Kwon et al. 2023, arXiv:2309.06180); preferring contiguous runs is ours, so that attention over a
session's window is a slice and needs no gather.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

NULL_PAGE = 0


class PagePool:
    """Owns the page numbers 1 to ``pages`` - 1.

    Args:
        pages: Size of the pool, the null page included; at least 1.
    """

    def __init__(self, pages: int) -> None:
        assert pages >= 1, pages
        self._counts = [0] * pages
        self._free = pages - 1

    @property
    def total(self) -> int:
        """Pages that can be handed out."""
        return len(self._counts) - 1

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return self._free

    @property
    def in_use(self) -> int:
        """Pages somebody holds."""
        return self.total - self._free

    def references(self, page: int) -> int:
        """Return how many holders ``page`` has."""
        return self._counts[page]

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """Take ``count`` pages, ascending, each with one reference.

        The smallest free run that fits is cut from its start; where no run is
        long enough the largest runs are used up first, so that the pages fall into few pieces.

        Returns:
            The pages, or None when fewer than ``count`` are free.
        """
        assert count >= 0, count
        if count > self._free:
            return None
        runs = self._free_runs()
        fitting = [run for run in runs if len(run) >= count]
        pages: list[int] = []
        if fitting:
            pages.extend(min(fitting, key=len)[:count])
        else:
            for run in sorted(runs, key=len, reverse=True):
                pages.extend(run[: count - len(pages)])
        for page in pages:
            self._counts[page] = 1
        self._free -= count
        return tuple(sorted(pages))

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each of ``pages``, all of which must be held."""
        for page in pages:
            assert self._counts[page] > 0, f"page {page} is free and cannot be shared"
            self._counts[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Drop one reference from each of ``pages``; the last one frees the page."""
        for page in pages:
            assert self._counts[page] > 0, f"page {page} is released more often than held"
            self._counts[page] -= 1
            self._free += self._counts[page] == 0

    def check_integrity(self, holders: Iterable[Sequence[int]] | None = None) -> None:
        """Assert that the counts are consistent, and equal to what ``holders`` hold if given."""
        assert self._counts[NULL_PAGE] == 0, "the null page was handed out"
        assert all(count >= 0 for count in self._counts), "negative reference count"
        free = sum(count == 0 for count in self._counts[1:])
        assert free == self._free, f"{free} pages are free but {self._free} are counted"
        if holders is not None:
            held = Counter(page for pages in holders for page in pages)
            for page in range(1, len(self._counts)):
                assert self._counts[page] == held[page], (
                    f"page {page} has {self._counts[page]} references but {held[page]} holders"
                )

    def _free_runs(self) -> list[range]:
        """Return the maximal runs of free pages, ascending."""
        runs: list[range] = []
        start: int | None = None
        for page in range(1, len(self._counts) + 1):
            is_free = page < len(self._counts) and self._counts[page] == 0
            if is_free and start is None:
                start = page
            elif not is_free and start is not None:
                runs.append(range(start, page))
                start = None
        return runs
