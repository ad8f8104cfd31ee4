import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from server.media.encoder import ChunkEncoder
from server.media.types import EncodedChunk
from server.worker import encoders as module
from server.worker.encoders import WATCHED_S, Encoders, key_every_chunks
from tests.conftest import FakeClock

pytestmark = pytest.mark.anyio
PICTURES = np.zeros((3, 48, 64, 3), np.uint8)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("chunk", "fps", "every"), [(12, 16, 2), (12, 24, 4), (12, 5, 1), (4, 16, 8), (48, 16, 1)]
)
def test_keyframes_come_at_least_every_two_seconds(chunk: int, fps: int, every: int) -> None:
    assert key_every_chunks(chunk, fps) == every
    assert every == 1 or every * chunk / fps <= 2.0


async def test_keyframes_depend_on_the_chunk_index_alone(
    executor: Executor, clock: FakeClock
) -> None:
    encoders = Encoders("h264", (64, 48), 16, 12, executor, clock)
    keys = [(await encoders.encode(PICTURES, n))["h264"].starts_with_key for n in range(6)]
    assert keys == [True, False, True, False, True, False]
    await encoders.close()


async def test_an_encoder_that_starts_late_begins_with_a_keyframe(
    executor: Executor, clock: FakeClock
) -> None:
    encoders = Encoders("h264", (64, 48), 16, 12, executor, clock)
    assert (await encoders.encode(PICTURES, 3))["h264"].starts_with_key
    await encoders.close()


async def test_a_watched_codec_is_encoded_while_somebody_watches(
    executor: Executor, clock: FakeClock
) -> None:
    encoders = Encoders("jpeg", (64, 48), 16, 12, executor, clock)
    assert set(await encoders.encode(PICTURES, 0)) == {"jpeg"}
    encoders.watched("h264")
    encoders.watched("jpeg")
    both = await encoders.encode(PICTURES, 1)
    assert set(both) == {"jpeg", "h264"}
    assert both["h264"].starts_with_key
    assert [len(unit.data) for unit in both["h264"].units()] == list(both["h264"].sizes)
    clock.advance(WATCHED_S + 0.1)
    assert set(await encoders.encode(PICTURES, 2)) == {"jpeg"}
    await encoders.close()


async def test_no_encoder_is_closed_before_the_thread_that_encodes_in_it_has_done(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    class Slow(ChunkEncoder):
        def encode(self, frames: NDArray[np.uint8], key: bool) -> EncodedChunk:
            begun.set()
            assert go_on.wait(20)
            seen.append("encoded")
            return super().encode(frames, key)

        def close(self) -> None:
            seen.append("closed")
            super().close()

    monkeypatch.setattr(module, "ChunkEncoder", Slow)
    with ThreadPoolExecutor(2) as executor:
        encoders = Encoders("h264", (64, 48), 16, 12, executor, clock)
        encoding = asyncio.create_task(encoders.encode(PICTURES, 0))
        await asyncio.to_thread(begun.wait)
        encoding.cancel()
        closing = asyncio.create_task(encoders.close())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait({encoding, closing})
    assert encoding.cancelled()
    assert seen == ["encoded", "closed"]
