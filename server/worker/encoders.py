"""The encoders of one stream: one for each codec somebody watches in.

Keyframes come by chunk index, at least every two seconds, so that what is encoded does not depend
on who joins when; an encoder that starts late begins with one. Encoding runs in the given executor,
one chunk at a time. Knows no Redis and no engine.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.entries import CodedChunk
from server.media.encoder import ChunkEncoder
from server.media.types import CodecConfig, CodecName

KEY_EVERY_S = 2.0
WATCHED_S = 5.0
"""How long a codec stays in use after the last sign of somebody watching in it."""


def key_every_chunks(chunk_frames: int, fps: float) -> int:
    """Return after how many chunks a keyframe comes: the most that fit into two seconds."""
    return max(1, int(KEY_EVERY_S * fps // chunk_frames))


class Encoders:
    """Encodes each chunk once for every codec in use."""

    def __init__(
        self,
        codec: CodecName,
        size: tuple[int, int],
        fps: int,
        chunk_frames: int,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the owner's encoder; ``size`` is ``(width, height)`` in pixels."""
        self._own = codec
        self._size = size
        self._fps = fps
        self._every = key_every_chunks(chunk_frames, fps)
        self._executor = executor
        self._clock = clock
        self._encoders: dict[CodecName, ChunkEncoder] = {codec: self._open(codec)}
        self._watched_until: dict[CodecName, float] = {}

    @property
    def config(self) -> CodecConfig:
        """The owner's decoder configuration."""
        return self._encoders[self._own].config

    def watched(self, codec: CodecName) -> None:
        """Note that somebody watches in ``codec``; from the next chunk on it is encoded."""
        if codec != self._own:
            self._watched_until[codec] = self._clock() + WATCHED_S

    async def encode(self, frames: NDArray[Any], chunk_index: int) -> Mapping[str, CodedChunk]:
        """Encode one chunk in the executor: RGB pictures ``[T, H, W, 3]``, uint8."""
        key = chunk_index % self._every == 0
        self._follow_watchers()
        loop = asyncio.get_running_loop()
        work = dict(self._encoders)
        return await loop.run_in_executor(self._executor, _encode_all, work, frames, key)

    def close(self) -> None:
        """Release every encoder."""
        for encoder in self._encoders.values():
            encoder.close()

    def _follow_watchers(self) -> None:
        now = self._clock()
        for codec, until in list(self._watched_until.items()):
            if until < now:
                del self._watched_until[codec]
                self._encoders.pop(codec).close()
            elif codec not in self._encoders:
                self._encoders[codec] = self._open(codec)

    def _open(self, codec: CodecName) -> ChunkEncoder:
        return ChunkEncoder(codec, *self._size, self._fps)


def _encode_all(
    encoders: Mapping[CodecName, ChunkEncoder], frames: NDArray[np.uint8], key: bool
) -> dict[str, CodedChunk]:
    coded: dict[str, CodedChunk] = {}
    for codec, encoder in encoders.items():
        began = time.perf_counter()
        chunk = encoder.encode(frames, key)
        coded[codec] = CodedChunk.of(chunk, (time.perf_counter() - began) * 1000)
    return coded
