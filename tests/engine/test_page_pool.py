import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.page_pool import NULL_PAGE, PagePool


def test_pages_are_handed_out_as_one_run_where_there_is_one():
    pool = PagePool(11)
    assert pool.allocate(4) == (1, 2, 3, 4)
    assert pool.allocate(6) == (5, 6, 7, 8, 9, 10)
    assert pool.free == 0


def test_the_smallest_run_that_fits_is_taken():
    pool = PagePool(12)
    first = pool.allocate(5)
    between = pool.allocate(1)
    pool.allocate(2)
    hole = pool.allocate(2)
    assert pool.allocate(1) is not None
    pool.release(first)
    pool.release(hole)
    assert between == (6,)
    assert pool.allocate(2) == hole


def test_pages_in_pieces_are_better_than_none():
    pool = PagePool(7)
    pages = [pool.allocate(1) for _ in range(6)]
    for index in (0, 2, 3, 5):
        pool.release(pages[index])
    assert pool.allocate(3) == (1, 3, 4)
    assert pool.allocate(2) is None
    assert pool.allocate(1) == (6,)


def test_a_refused_allocation_takes_nothing():
    pool = PagePool(4)
    assert pool.allocate(4) is None
    assert pool.free == 3


def test_a_shared_page_is_free_only_after_its_last_release():
    pool = PagePool(3)
    pages = pool.allocate(2)
    pool.share(pages)
    pool.release(pages)
    assert pool.in_use == 2
    pool.release(pages)
    assert pool.in_use == 0


def test_releasing_too_often_is_a_defect_that_shows():
    pool = PagePool(3)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="more often than held"):
        pool.release(pages)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(pages)


def test_the_integrity_check_finds_a_holder_that_does_not_count():
    pool = PagePool(5)
    pages = pool.allocate(2)
    pool.check_integrity([pages])
    with pytest.raises(AssertionError, match="holders"):
        pool.check_integrity([pages, pages])
    with pytest.raises(AssertionError, match="holders"):
        pool.check_integrity([])


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocating, sharing and releasing keeps the counts true."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(24)
        self.held: list[tuple[int, ...]] = []

    @rule(count=st.integers(0, 12))
    def allocate(self, count):
        free = self.pool.free
        pages = self.pool.allocate(count)
        assert (pages is None) == (count > free)
        if pages is not None:
            assert len(set(pages)) == count
            assert NULL_PAGE not in pages
            self.held.append(pages)

    @rule(data=st.data())
    def share(self, data):
        if self.held:
            pages = data.draw(st.sampled_from(self.held))
            self.pool.share(pages)
            self.held.append(pages)

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.pool.release(self.held.pop(index))

    @invariant()
    def counts_are_true(self):
        self.pool.check_integrity(self.held)

    def teardown(self):
        for pages in self.held:
            self.pool.release(pages)
        assert self.pool.in_use == 0


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
