import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.page_pool import NULL_PAGE, PagePool
from engine.window import OutOfPagesError, PageTable
from models.policy import CachePolicy


def table_of(window=9, sink=3, per_frame=2, rope="absolute", pages=200):
    pool = PagePool(pages)
    table = PageTable.open(pool, window, sink, per_frame, rope)
    assert table is not None
    return pool, table


def run(table, chunks, frames=3):
    for _ in range(chunks):
        table.append(frames)


def test_the_sink_stays_and_the_oldest_others_go():
    _, table = table_of()
    run(table, 5)
    assert table.frames == (0, 1, 2, 9, 10, 11, 12, 13, 14)


def test_what_is_attended_is_one_ascending_run_of_pages():
    _, table = table_of()
    for chunk in range(9):
        table.append(3)
        read = table.row(3).read
        assert read == tuple(range(read[0], read[0] + len(read)))
        assert len(read) == 2 * min(9, 3 * (chunk + 1))


def test_positions_count_from_the_stream_or_from_the_window():
    for rope, queries, keys in [
        ("absolute", (12, 13, 14), (0, 1, 2, 9, 10, 11, 12, 13, 14)),
        ("window", (6, 7, 8), tuple(range(9))),
    ]:
        _, table = table_of(rope=rope)
        run(table, 5)
        row = table.row(3)
        assert row.query_frames == queries
        assert tuple(sorted(row.key_frames)) == keys


def test_a_key_keeps_its_page_while_it_stays_in_the_window():
    _, table = table_of(rope="absolute")
    run(table, 4)
    before = dict(zip(table.row(3).key_frames, table.row(3).read[::2], strict=True))
    table.append(3)
    after = dict(zip(table.row(3).key_frames, table.row(3).read[::2], strict=True))
    kept = before.keys() & after.keys()
    assert kept == {0, 1, 2, 9, 10, 11}
    assert all(before[frame] == after[frame] for frame in kept)


@settings(deadline=None)
@given(
    window=st.integers(1, 12),
    sink=st.integers(0, 4),
    chunk=st.integers(1, 4),
    first=st.booleans(),
    chunks=st.integers(1, 12),
)
def test_the_window_holds_what_the_policy_says(window, sink, chunk, first, chunks):
    window += sink + chunk
    policy = CachePolicy(
        window_frames=window, sink_frames=sink, chunk_frames=chunk, independent_first_frame=first
    )
    pool, table = table_of(window, sink, 1, "window")
    for index in range(chunks):
        table.append(policy.chunk_size(index))
        assert table.frames == policy.attended(table.next_frame)
    table.close()
    assert pool.in_use == 0


def test_frames_that_the_current_chunk_only_looks_back_on_are_past():
    _, table = table_of(window=9, sink=0, rope="window")
    run(table, 2)
    row = table.row(3)
    weighted = [frame for frame, past in zip(row.key_frames, row.past, strict=True) if past]
    assert weighted == [1, 2]


def test_a_recache_within_the_first_window_rewrites_everything():
    _, table = table_of(window=9, sink=3, per_frame=1)
    run(table, 2)
    row = table.recache(keep_sink=True)
    assert row.query_frames == tuple(range(6))
    assert row.write == row.read
    assert NULL_PAGE not in row.write


def test_a_recache_that_keeps_the_sink_writes_only_the_ring():
    _, table = table_of(window=9, sink=3, per_frame=1)
    run(table, 5)
    before = table.row(3)
    row = table.recache(keep_sink=True)
    assert row.query_frames == tuple(range(6, 15))
    assert row.write[:3] == (NULL_PAGE,) * 3
    assert row.read == before.read
    assert row.key_frames == before.key_frames
    place = dict(zip(row.key_frames, row.read, strict=True))
    assert row.write[3:] == tuple(place[frame] for frame in range(9, 15))


def test_a_recache_that_moves_the_sink_hands_it_to_the_oldest_frames_left():
    _, table = table_of(window=9, sink=3, per_frame=1)
    run(table, 5)
    row = table.recache(keep_sink=False)
    assert NULL_PAGE not in row.write
    assert table.frames == tuple(range(6, 15))
    table.append(3)
    assert table.frames == (6, 7, 8, 12, 13, 14, 15, 16, 17)


def test_a_fork_never_writes_where_its_twin_reads():
    pool, table = table_of(window=9, sink=3)
    run(table, 4)
    twin = table.fork()
    read = set(table.row(3).read)
    twin.append(3)
    assert not set(twin.row(3).write) & read
    assert set(twin.row(3).read) & read  # what it did not write is still shared
    pool.check_integrity([table.pages, twin.pages])
    table.close()
    twin.close()
    assert pool.in_use == 0


def test_a_write_to_a_shared_slot_without_free_pages_says_what_to_do():
    _, table = table_of(window=3, sink=0, per_frame=2, pages=7)
    table.append(3)
    twin = table.fork()
    with pytest.raises(OutOfPagesError, match="2 pages needed"):
        twin.append(1)


def test_a_pool_without_room_opens_no_table():
    pool = PagePool(8)
    assert PageTable.open(pool, 4, 0, 2, "absolute") is None
    assert pool.in_use == 0


class TablesMachine(RuleBasedStateMachine):
    """Opening, writing, recaching, forking and closing tables loses no page and mixes none up."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(90)
        self.tables: list[PageTable] = []
        self.content: dict[int, tuple[int, int]] = {}  # page -> (writer's stamp, frame)
        self.seen: dict[int, dict[int, tuple[int, int]]] = {}  # table -> page -> content
        self.stamp = 0

    def _write(self, table, row, frames):
        self.stamp += 1
        per_frame = len(row.write) // len(row.query_frames)
        for index, page in enumerate(row.write):
            if page != NULL_PAGE:
                self.content[page] = (self.stamp, frames[index // per_frame])
        self.seen[id(table)] = {page: self.content[page] for page in row.read}

    @rule(window=st.integers(4, 8), sink=st.integers(0, 2), rope=st.sampled_from(["absolute"]))
    def open(self, window, sink, rope):
        table = PageTable.open(self.pool, window, sink, 2, rope)
        if table is not None:
            self.tables.append(table)
            self.seen[id(table)] = {}

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), frames=st.integers(1, 2))
    def append(self, data, frames):
        table = data.draw(st.sampled_from(self.tables))
        try:
            table.append(frames)
        except OutOfPagesError:
            self._close(table)
            return
        first = table.next_frame - frames
        self._write(table, table.row(frames), range(first, first + frames))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), keep_sink=st.booleans())
    def recache(self, data, keep_sink):
        table = data.draw(st.sampled_from(self.tables))
        if not table.frames:
            return
        try:
            row = table.recache(keep_sink)
        except OutOfPagesError:
            self._close(table)
            return
        frames = len(row.query_frames)
        self._write(table, row, range(table.next_frame - frames, table.next_frame))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data):
        table = data.draw(st.sampled_from(self.tables))
        twin = table.fork()
        self.tables.append(twin)
        self.seen[id(twin)] = dict(self.seen[id(table)])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def close(self, data):
        self._close(data.draw(st.sampled_from(self.tables)))

    def _close(self, table):
        self.tables.remove(table)
        del self.seen[id(table)]
        table.close()

    @invariant()
    def pages_are_counted(self):
        self.pool.check_integrity([table.pages for table in self.tables])

    @invariant()
    def nobody_changes_what_another_table_reads(self):
        for table in self.tables:
            for page, content in self.seen[id(table)].items():
                assert self.content[page] == content


TestTablesMachine = TablesMachine.TestCase
TestTablesMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
