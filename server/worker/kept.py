"""Engine states of live streams, kept on disk so that another worker can go on from them.

One file a stream, replaced as a whole: a header line and the engine's bytes. Written now and then; what
was made since is made again after a takeover, and not shown twice. Knows no engine and no Redis.
"""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from server.worker.output import Offset

KEEP_S = 5.0
"""Shortest time between two states of a stream."""
COST_SHARE = 0.1
"""Largest part of the time that taking states may need."""
MAX_BYTES = 128 << 20
"""A larger state is not kept: a stream of a large model begins anew after a takeover."""
FORGET_S = 86_400.0
_SUFFIXES = (".state", ".part")


@dataclass(frozen=True, slots=True)
class KeptState:
    """A stream after some chunk.

    Attributes:
        offset: What had been published when that engine session began to count from 0.
        prompts: The record's newest prompts at that time (JSON), empty when never changed.
        data: The engine's state.
    """

    offset: Offset
    prompts: str
    data: bytes


class KeptStates:
    """The states of all streams under one folder that workers share."""

    def __init__(self, folder: Path, wall: Callable[[], float], keep_s: float = KEEP_S) -> None:
        """Use a folder; what nobody wrote to for a day is removed.

        Args:
            folder: Shared by all workers.
            wall: Seconds since 1970, as the file system counts.
            keep_s: Shortest time between two states of a stream.
        """
        self._folder = folder
        self.keep_s = keep_s
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.*"):
            with contextlib.suppress(OSError):
                if path.suffix in _SUFFIXES and wall() - path.stat().st_mtime > FORGET_S:
                    path.unlink()

    def write(self, session_id: str, state: KeptState) -> None:
        """Replace a stream's state; a reader sees the old one or the new one."""
        header = json.dumps({"offset": asdict(state.offset), "prompts": state.prompts})
        path = self._path(session_id)
        beside = path.with_suffix(f".{os.getpid()}.part")
        try:
            beside.write_bytes(header.encode() + b"\n" + state.data)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def read(self, session_id: str) -> KeptState | None:
        """Return a stream's state; None when there is none, or none that can be read."""
        try:
            header, _, data = self._path(session_id).read_bytes().partition(b"\n")
            found = json.loads(header)
            return KeptState(Offset(**found["offset"]), found["prompts"], data)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def drop(self, session_id: str) -> None:
        """Forget a stream's state, and what a killed worker had begun to write of it."""
        for path in self._folder.glob(f"{session_id}.*"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _path(self, session_id: str) -> Path:
        assert "/" not in session_id, session_id
        return self._folder / f"{session_id}.state"
