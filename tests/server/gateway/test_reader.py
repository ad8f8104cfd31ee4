import pytest

from server.fabric.streams import Entry
from server.gateway.reader import begin_at


def _ring(first: int, last: int, every: int = 2) -> list[Entry]:
    chunks = [
        Entry(
            f"{index}-0",
            {
                "t": "chunk",
                "chunk_index": index,
                "codecs": {"h264": {"keys": [index % every == 0, False]}},
            },
            {},
        )
        for index in range(first, last + 1)
    ]
    return [Entry("0-1", {"t": "paused"}, {}), *chunks]


def _begins(entries: list[Entry], after: int | None, codec: str = "h264") -> int | None:
    found = begin_at(entries, codec, after)
    return None if found is None else int(entries[found].message["chunk_index"])


def test_a_joiner_begins_at_the_newest_key_chunk() -> None:
    assert _begins(_ring(0, 7), None) == 6


@pytest.mark.parametrize(
    ("after", "begins"), [(-1, 0), (0, 0), (1, 2), (2, 2), (3, 4), (6, 6), (7, 6), (99, 6)]
)
def test_a_resume_begins_where_nothing_is_lost_and_the_least_repeated(
    after: int, begins: int
) -> None:
    assert _begins(_ring(0, 7), after) == begins


def test_a_resume_from_before_the_ring_begins_at_the_newest_key_chunk() -> None:
    assert _begins(_ring(5, 11), 1) == 10


def test_without_a_key_chunk_there_is_no_beginning() -> None:
    assert _begins(_ring(1, 1), None) is None
    assert _begins(_ring(0, 7), None, "jpeg") is None
    assert _begins([], 3) is None
