"""Queues a job with timed prompts, shows its progress and downloads it."""

import asyncio
import sys
from pathlib import Path

from longtake_client import Client

SCENES = [(4.0, "a red ball on grass at night"), (8.0, "a blue cube on sand by day")]


async def make(url: str, path: Path) -> None:
    async with Client(url) as client:
        video = await client.jobs.create(
            "a red ball on grass by day", seconds=12, later=SCENES, seed=7
        )
        print(video.id)
        done = await client.jobs.wait(video.id, lambda now: print(f"{now.progress} %"))
        if done.status != "completed":
            sys.exit(f"{done.status}: {done.error}")
        await client.jobs.download(video.id, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    asyncio.run(
        make(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000", Path("story.mp4"))
    )
