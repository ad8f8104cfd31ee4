"""The encoders of one stream: one for each codec somebody watches in.

Keyframes come by chunk index, at least every two seconds, so that what is encoded does not depend
on who joins when; an encoder that starts late begins with one. Encoding and closing run in the given
executor, one after the other. Knows no Redis and no engine.
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
from server.tasks import in_executor

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
        # An encoder must not be closed while a thread encodes in it: that ends the process.
        self._turn = asyncio.Lock()

    @property
    def config(self) -> CodecConfig:
        """The owner's decoder configuration."""
        return self._encoders[self._own].config

    def watched(self, codec: CodecName) -> None:
        """Note that somebody watches in ``codec``; from the next chunk on it is encoded."""
        if codec != self._own:
            self._watched_until[codec] = self._clock() + WATCHED_S

    async def encode(self, frames: NDArray[Any], chunk_index: int) -> Mapping[str, CodedChunk]:
        """Encode one chunk in the executor: RGB pictures ``[T, H, W, 3]``, uint8.

        A cancellation takes effect when the chunk in work is encoded.
        """
        key = chunk_index % self._every == 0
        async with self._turn:
            unwatched = self._follow_watchers()
            work = dict(self._encoders)
            return await in_executor(self._executor, _encode_all, work, unwatched, frames, key)

    async def close(self) -> None:
        """Release every encoder, once none is at work."""
        async with self._turn:
            await in_executor(self._executor, _close_all, tuple(self._encoders.values()))

    def _follow_watchers(self) -> tuple[ChunkEncoder, ...]:
        """Open what is watched from now on; return what nobody watches any more."""
        now = self._clock()
        unwatched = []
        for codec, until in list(self._watched_until.items()):
            if until < now:
                del self._watched_until[codec]
                unwatched.append(self._encoders.pop(codec))
            elif codec not in self._encoders:
                self._encoders[codec] = self._open(codec)
        return tuple(unwatched)

    def _open(self, codec: CodecName) -> ChunkEncoder:
        return ChunkEncoder(codec, *self._size, self._fps)


def _encode_all(
    encoders: Mapping[CodecName, ChunkEncoder],
    unwatched: tuple[ChunkEncoder, ...],
    frames: NDArray[np.uint8],
    key: bool,
) -> dict[str, CodedChunk]:
    _close_all(unwatched)
    coded: dict[str, CodedChunk] = {}
    for codec, encoder in encoders.items():
        began = time.perf_counter()
        chunk = encoder.encode(frames, key)
        coded[codec] = CodedChunk.of(chunk, (time.perf_counter() - began) * 1000)
    return coded


def _close_all(encoders: tuple[ChunkEncoder, ...]) -> None:
    for encoder in encoders:
        encoder.close()
