"""A viewer's way through a media stream: from where to begin, and what to do after a gap.

The owner of a new stream reads everything; who joins or resumes begins at a key chunk in the ring.
A viewer so slow that the ring moved past it goes on at the next key chunk. Knows no sockets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.entries import ChunkEntry
from server.fabric import keys
from server.fabric.connection import Connection
from server.fabric.queue import order
from server.fabric.streams import Entry, all_entries, read_entries


@dataclass(frozen=True, slots=True)
class Notice:
    """An entry that is not a chunk: ``t`` says what it is."""

    entry_id: str
    message: dict[str, Any]

    def after(self, entry_id: str) -> bool:
        """Return whether it was published after another entry."""
        return order(self.entry_id) > order(entry_id)

    @property
    def kind(self) -> str:
        """What the entry is."""
        return str(self.message["t"])


@dataclass(frozen=True, slots=True)
class Skipped:
    """A chunk this viewer cannot decode, up to and including ``frame``."""

    frame: int


def begin_at(entries: Sequence[Entry], codec: str, after_chunk: int | None) -> int | None:
    """Return the index of the key chunk a viewer begins with; None when the ring has none.

    Args:
        entries: What the ring holds, oldest first.
        codec: What the viewer decodes.
        after_chunk: The last chunk it has (a resume): the newest key chunk that leaves no gap
            is taken, else the newest there is. None for a joiner: the newest.
    """
    starts = [
        (index, _chunk(entry))
        for index, entry in enumerate(entries)
        if (coded := entry.message.get("codecs", {}).get(codec)) and coded["keys"][0]
    ]
    whole = [index for index, chunk in starts if after_chunk is None or chunk <= after_chunk + 1]
    return max(whole or (index for index, _ in starts), default=None)


def _chunk(entry: Entry) -> int:
    return int(entry.message["chunk_index"])


class MediaReader:
    """Reads one session's media stream for one viewer."""

    def __init__(self, redis: Connection, session_id: str, codec: str) -> None:
        """Begin at the oldest entry; ``seek`` moves elsewhere."""
        self._redis = redis
        self._key = keys.media(session_id)
        self._codec = codec
        self._at = "0"
        self._next_chunk: int | None = None

    async def seek(self, after_chunk: int | None) -> int | None:
        """Move to the key chunk a joiner (None) or a resuming viewer begins with.

        Without one in the ring the next one that is published is the beginning.

        Returns:
            The last frame before the beginning; None when nothing was published before it.
        """
        entries = await all_entries(self._redis, self._key)
        index = begin_at(entries, self._codec, after_chunk)
        self._next_chunk = None
        if index is not None:
            self._at = entries[index - 1].entry_id if index else "0"
        elif entries:
            self._at = entries[-1].entry_id
        before = [e.message for e in entries[:index] if e.message["t"] == "chunk"]
        return before[-1]["first_frame"] + before[-1]["num_frames"] - 1 if before else None

    async def read(self, block_ms: int) -> list[ChunkEntry | Notice | Skipped]:
        """Return what came, waiting at most ``block_ms``; chunks are decodable in this order."""
        found: list[ChunkEntry | Notice | Skipped] = []
        for entry in await read_entries(self._redis, self._key, self._at, block_ms=block_ms):
            self._at = entry.entry_id
            if entry.message["t"] != "chunk":
                found.append(Notice(entry.entry_id, entry.message))
            elif self._decodable(entry):
                found.append(ChunkEntry.from_message(entry.message, entry.data))
            else:
                message = entry.message
                found.append(Skipped(message["first_frame"] + message["num_frames"] - 1))
        return found

    def _decodable(self, entry: Entry) -> bool:
        """Return whether the viewer can decode this chunk after those it has."""
        coded = entry.message["codecs"].get(self._codec)
        index = _chunk(entry)
        if coded is None or (index != self._next_chunk and not coded["keys"][0]):
            self._next_chunk = None
            return False
        self._next_chunk = index + 1
        return True
