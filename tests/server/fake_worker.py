"""A worker with a fake engine as a process: ``python -m tests.server.fake_worker URL NAME``."""

import asyncio
import sys

from tests.server.fakes import FakeEngine
from tests.server.harness import worker


async def main(redis_url: str, name: str) -> None:
    async with worker(redis_url, FakeEngine(), name=name):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
