"""What this machine has, and what the server will use of it, each with a reason.

Looks only; starts and changes nothing. Knows which parts are needed and which are extras.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.dtype import choose_dtype
from kernels.select import Target, choose, report
from models.entry import ModelEntry
from models.loading import locate
from models.registry import find, names
from server.media.encoder import ChunkEncoder
from server.media.types import CODEC_NAMES
from server.redis_process import RedisError, find_binary
from server.worker.build import CannotServe, cache_dir, choose_device


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``needed`` ones must be good for the server to run."""

    what: str
    good: bool
    detail: str
    needed: bool = True


def examine(
    device: str, model: str = "longtake-tiny", data_dir: Path = Path("data")
) -> list[Finding]:
    """Look at everything the server uses on ``device`` for ``model``, with its files in ``data_dir``.

    Args:
        device: As for the server.
        model: A name, which need not be fetched; ``name@path``, or a folder.
        data_dir: As for the server.

    Raises:
        ValueError: No such model is known or there.
    """
    entry = find(model) if model in names() else locate(model, cache_dir(data_dir))[0]
    return [_redis(), *_codecs(), *_device(device, entry), _disk(data_dir)]


def _redis() -> Finding:
    try:
        binary = find_binary()
    except RedisError as error:
        return Finding("redis", False, str(error), needed=False)
    return Finding("redis", True, f"{binary} at {binary.path}", needed=False)


def _codecs() -> list[Finding]:
    found = []
    for codec in CODEC_NAMES:
        needed = codec in ("h264", "jpeg")
        try:
            with ChunkEncoder(codec, 160, 96, 16) as encoder:
                detail = encoder.config.mime
            found.append(Finding(f"codec {codec}", True, detail, needed))
        except (ValueError, OSError, RuntimeError) as error:
            found.append(Finding(f"codec {codec}", False, str(error), needed))
    return found


def _device(wanted: str, model: ModelEntry) -> list[Finding]:
    try:
        device = choose_device(wanted)
    except CannotServe as error:
        return [Finding("device", False, str(error))]
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        free, total = torch.cuda.mem_get_info(device)
        detail = f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    else:
        detail = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    dtype = choose_dtype(device, time.monotonic)
    reason = "measured faster here" if device.type == "cpu" else "what accelerators are made for"
    return [
        Finding("device", True, f"{device}: {detail}"),
        Finding("dtype", True, f"{str(dtype).removeprefix('torch.')}, {reason}"),
        *_kernels(Target(device, dtype, model.transformer.head_dim)),
    ]


def _kernels(target: Target) -> list[Finding]:
    """Return what every kind of kernels says of this device, and which will be used."""
    lines = report(target)
    taken = choose(target)
    why = next(line.reason for line in lines if line.name == taken)
    return [
        Finding("kernels", True, f"{taken} will be used on {target}: {why}"),
        *(
            Finding(f"kernels {line.name}", line.usable, line.reason, needed=False)
            for line in lines
        ),
    ]


def _disk(data_dir: Path) -> Finding:
    """Look at the disk that holds the data folder, or will once the server has made it."""
    there = next(
        path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists()
    )
    usage = shutil.disk_usage(there)
    detail = f"{usage.free / 1e9:.0f} GB free for {data_dir}"
    return Finding("disk", usage.free > 1e9, detail, needed=False)
