"""Records ten seconds of a live stream and changes the prompt half way."""

import asyncio
import sys
from pathlib import Path

from longtake_client import Client


async def record(url: str, path: Path) -> None:
    async with Client(url) as client:
        with path.open("wb") as file:
            async with client.stream("a red ball on grass", seed=7) as stream:
                changed = False
                async for chunk in stream:
                    file.write(chunk.data)
                    if not changed and chunk.pts_s >= 5:
                        changed = True
                        change = await stream.prompt("a blue ball on sand")
                        applied = await change.applied()
                        print(f"the new prompt shows at {applied.pts_s:.2f} s")
                    if chunk.pts_s + chunk.duration_s >= 10:
                        break
    print(f"wrote {path}")


if __name__ == "__main__":
    asyncio.run(
        record(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000", Path("live.mp4"))
    )
