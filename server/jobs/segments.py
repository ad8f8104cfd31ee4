"""A job's folder: init segments, media segments and the finished file, each written whole.

Every file appears under its name only when all its bytes are on the disk (write beside,
fsync, rename), under a name that no other claim uses, so two workers that both believe
to own a job cannot damage each other's files. Which of them count is the store's list.

An init segment and the segments after it are one valid fragmented MP4. The finished file
holds the same pictures with the index in front, copied and not encoded again. Knows no
Redis and no engine.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from server.jobs.record import Segment
from server.media import mp4
from server.media.boxes import iter_boxes
from server.media.fmp4 import read_fragment
from server.media.types import AccessUnit, CodecConfig

VIDEO = "video.mp4"
THUMBNAIL = "thumbnail.jpg"
START_IMAGE = "input.png"
_NAME = re.compile(r"(init-[0-9a-f]{12}\.mp4|seg-\d{8}-e\d+\.m4s)")


class JobFolder:
    """The files of one job under ``data_dir/jobs/<id>``."""

    def __init__(self, data_dir: Path, job_id: str) -> None:
        assert re.fullmatch(r"video_[0-9a-f]+", job_id), f"{job_id!r} is no job id"
        self.path = data_dir / "jobs" / job_id

    def put(self, name: str, data: bytes) -> None:
        """Write a small file whole."""
        self._write(name, lambda file: file.write(data))

    def put_init(self, data: bytes) -> str:
        """Write an init segment and return its name, which its contents decide."""
        name = f"init-{hashlib.sha256(data).hexdigest()[:12]}.mp4"
        if not (self.path / name).exists():
            self.put(name, data)
        return name

    def put_segment(
        self, init: str, first_frame: int, num_frames: int, epoch: int, data: bytes
    ) -> Segment:
        """Write fragments as one segment; it counts once the store has committed it."""
        name = f"seg-{first_frame:08d}-e{epoch}.m4s"
        self.put(name, data)
        return Segment(name, init, first_frame, num_frames, len(data))

    def finish(
        self,
        segments: Sequence[Segment],
        config: CodecConfig,
        size: tuple[int, int],
        fps: int | Fraction,
    ) -> str:
        """Write the finished file from committed segments and return its name.

        Args:
            segments: In playing order, all under one ``config``.
            config: The encoder's.
            size: ``(width, height)`` in pixels.
            fps: Pictures per second.
        """
        # Two passes, so that a long video is never in memory: sizes first, pictures then.
        samples = [(len(unit.data), unit.keyframe) for unit in self._units(segments)]
        front = mp4.header(config, *size, fps, samples)

        def fill(file: BinaryIO) -> None:
            file.write(front)
            file.writelines(unit.data for unit in self._units(segments))

        self._write(VIDEO, fill)
        return VIDEO

    def adopt(self, source: "JobFolder", names: Iterable[str]) -> None:
        """Take immutable files of another job: linked where the file system can, else copied."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in names:
            try:
                (self.path / name).hardlink_to(source.path / name)
            except FileExistsError:
                continue
            except FileNotFoundError:
                raise
            except OSError:
                self.put(name, (source.path / name).read_bytes())

    def served(self, name: str) -> Path | None:
        """Return the path of a segment a player may ask for; None for any other name."""
        return self.path / name if _NAME.fullmatch(name) else None

    def tidy(self, segments: Sequence[Segment]) -> None:
        """Remove what an ended job does not need: states, and files of claims that were lost.

        Harmless when nothing is there, or nothing can be reached.
        """
        keep = {name for segment in segments for name in (segment.name, segment.init)}
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                ours = _NAME.fullmatch(path.name) or path.suffix in (".part", ".state")
                if ours and path.name not in keep:
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything; harmless when nothing is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _units(self, segments: Sequence[Segment]) -> Iterator[AccessUnit]:
        for segment in segments:
            yield from read_segment((self.path / segment.name).read_bytes())

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        beside = self.path / f"{name}.{secrets.token_hex(4)}.part"
        try:
            with beside.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path / name)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(self.path)


def read_segment(data: bytes) -> Iterator[AccessUnit]:
    """Yield the pictures of a segment: one fragment after the other.

    Raises:
        ValueError: The data is cut short, or holds something other than our fragments.
    """
    start = 0
    for kind, _, end in iter_boxes(data):
        if kind == "mdat":
            yield from read_fragment(data[start:end])[1]
            start = end


def _sync_folder(path: Path) -> None:
    """Make a rename durable; file systems that cannot (some mounts) are left to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
