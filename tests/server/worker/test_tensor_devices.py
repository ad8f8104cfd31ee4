"""A worker that has two devices for every stream, as real processes on the CPU."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from server.config import Settings
from server.fabric.record import read_record
from server.worker.build import CannotServe, build
from tests.conftest import RedisServer
from tests.server.harness import gateway, until
from tests.server.small_model import write_small_model

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_small_model(tmp_path / "small")


def follower_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
async def test_a_worker_serves_on_two_devices_and_ends_at_once_when_it_loses_one(
    redis_server: RedisServer, model: Path, tmp_path: Path
) -> None:
    words = ("--role", "worker", "--redis-url", redis_server.url, "--model", str(model))
    words += ("--device", "cpu", "--dtype", "float32", "--data-dir", str(tmp_path / "data"))
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server", *words, "--tensor-devices", "2", "--max-sessions", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with gateway(redis_server.url) as served:
            await until(served.context.cards, 120)
            async with served.viewer() as viewer:
                await viewer.start(num_frames=21, pacing="asap")
                done = await viewer.message("session.done", ack=True)
                assert (done["reason"], done["frames"]) == ("complete", 21)
            async with served.viewer() as viewer:
                opened = await viewer.start("day", pacing="asap")
                await viewer.change("night", "e1")
                await viewer.message("session.interaction.applied", ack=True)
                os.kill(follower_of(worker.pid), signal.SIGKILL)
                async with asyncio.timeout(60):
                    assert await worker.wait() == 1
                # Nobody was told that the stream is over: another worker takes it.
                record = await read_record(served.context.redis, "live", opened["session_id"])
                assert record["state"] == "running"
        assert worker.stderr is not None
        said = (await worker.stderr.read()).decode()
        assert said.startswith("error: tensor device 1 of 2 is lost, its process ended by SIGKILL")
        assert said.count("\n") == 1
        assert worker.stdout is not None
        assert "on 2 x cpu float32" in (await worker.stdout.read()).decode()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


def test_a_number_of_devices_that_the_model_does_not_allow_is_said_before_it_is_loaded(
    model: Path, tmp_path: Path
) -> None:
    (model / "transformer.safetensors").write_bytes(b"never read")
    said: list[str] = []
    settings = Settings(model=str(model), device="cpu", data_dir=tmp_path, tensor_devices=3)
    with pytest.raises(CannotServe, match=r"3 tensor devices; .* 2 heads .* choose 1 or 2$"):
        build(settings, said.append)
    assert not said
