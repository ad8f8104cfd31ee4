"""``python -m engine generate``: clips from prompts, without a server.

The model is loaded once and may make many clips (``--requests``). Frames are written as they left
the engine: an ``.npz`` with ``frames`` uint8 ``[T, H, W, 3]``, or a folder of PNG files. With
``--json`` the last line on stdout is one JSON object, else it is a sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from engine import bench, work_policy
from engine.accelerated import BATCH_SIZES
from engine.assemble import assemble
from engine.bands import check_devices
from engine.clips import Clip, make_clips
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.device import open_device
from engine.dtype import MEASURED, dtype_named
from engine.engine import Engine
from engine.followers import Followers, devices_from
from engine.picture_size import parse_size
from engine.requests import ClipRequest, check_names, parse_switch, read_requests
from engine.work_policy import WorkPolicy
from kernels.select import Target, select
from models.accelerate import accelerate
from models.interface import LoadedModel
from models.loading import load_model
from models.text_host import TextPlacement


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["bench"]:
        return bench.main(words[1:])
    options = _parser().parse_args(words)
    try:
        requests = _requests(options)
        summary = _generate(options, requests)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if options.json:
        print(json.dumps(summary))  # noqa: T201
    else:
        print(  # noqa: T201
            f"{len(summary['clips'])} clips, {summary['frames']} frames in "
            f"{summary['seconds']:.1f} s: {summary['frames_per_second']:.1f} frames/s "
            f"({summary['model']}, {summary['dtype']} on {summary['device']})"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("bench", help="measure frames a second; see bench --help")
    generate = commands.add_parser("generate", help="make clips and write their frames")
    add = generate.add_argument
    add("--model", default="longtake-tiny", help="a model's name, name@path, or its folder")
    add("--prompt", help="what the clip shows")
    add("--switch", action="append", default=[], metavar='SECONDS="PROMPT"', help="a later prompt")
    add("--seconds", type=float, default=5.0, help="length of a clip")
    add("--seed", type=int, help="0 when absent")
    add("--steps", type=int, help="denoising steps; the model's or the policy's number when absent")
    add("--size", help="WIDTHxHEIGHT; the model's first size when absent")
    add("--image", type=Path, help="picture that the clip starts from")
    add(
        "--continue",
        dest="clip",
        type=Path,
        metavar="CLIP",
        help="video to go on from: an .npz of this command or a folder of pictures; it is shown "
        "first and --seconds counts what is new",
    )
    add("--requests", type=Path, help="file with a JSON object a line: prompt, name, seconds, seed")
    add("--out", type=Path, required=True, help="clip.npz, or a folder")
    add("--png", action="store_true", help="write PNG files instead of .npz into the folder")
    add("--batch", type=int, default=1, help="clips made at the same time, up to 8 in one pass")
    add("--device", default="cpu", help="auto, cpu, cuda, cuda:1 or mps")
    add(
        "--tensor-devices",
        type=int,
        default=1,
        metavar="N",
        help="devices that share every clip, each with a process of its own; from --device on",
    )
    add("--dtype", choices=("auto", *MEASURED), default="auto")
    add("--cache-dir", type=Path, help="where fetched weights are")
    add(
        "--codec", help="one of the model's codecs, such as wan-vae or taehv; its default if absent"
    )
    add(
        "--text-device",
        choices=get_args(TextPlacement),
        default="device",
        help="where the text encoder works: on the device, on the CPU, or on the device for each "
        "new prompt alone (offload)",
    )
    work_policy.add_flags(generate)
    add("--random-weights", action="store_true", help="draw weights instead of reading them")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


def _requests(options: argparse.Namespace) -> list[ClipRequest]:
    if (options.prompt is None) == (options.requests is None):
        raise ValueError("give either --prompt or --requests; one of them is needed")
    if options.image is not None and options.clip is not None:
        raise ValueError("both --image and --continue; a clip begins with one of them")
    if options.requests is not None:
        one = ("switch", "seed", "steps", "size", "image", "clip")
        said = [name for name in one if getattr(options, name) not in (None, [])]
        if said:
            flags = ", ".join("--continue" if name == "clip" else f"--{name}" for name in said)
            raise ValueError(f"--requests and {flags}; say them in the lines of {options.requests}")
        return read_requests(options.requests, options.seconds)
    if options.png and options.out.suffix == ".npz":
        raise ValueError(f"--png and --out {options.out}; pictures want a folder, so name one")
    request = ClipRequest(
        name=options.out.stem,
        prompt=options.prompt,
        seconds=options.seconds,
        seed=options.seed or 0,
        steps=options.steps,
        switches=tuple(parse_switch(text) for text in options.switch),
        size=None if options.size is None else parse_size(options.size),
        image=options.image,
        clip=options.clip,
    )
    check_names([request])
    return [request]


def _generate(options: argparse.Namespace, requests: Sequence[ClipRequest]) -> dict[str, Any]:
    policy = work_policy.from_flags(options)
    policy.check_steps(options.steps)
    device, devices = open_device(options.device), options.tensor_devices
    if options.batch < 1:
        raise ValueError(f"--batch {options.batch}; it must be at least 1")
    if devices < 1:
        raise ValueError(f"--tensor-devices {devices}; it must be at least 1")
    policy.check_devices(devices)
    devices_from(device, devices)
    dtype = dtype_named(options.dtype, device, time.monotonic)
    model = load_model(
        options.model,
        device=device,
        dtype=dtype,
        cache_dir=options.cache_dir,
        codec=options.codec,
        text_placement=options.text_device,
        random_weights=options.random_weights,
    )
    check_devices(model.entry, devices)
    single = options.requests is None and options.out.suffix == ".npz"
    folder = options.out.parent if single else options.out
    with ExitStack() as stack:
        engine = _engine(model, policy, options, requests, stack)
        stack.callback(engine.close)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        written: dict[str, dict[str, Any]] = {}
        try:
            for clip in make_clips(engine, requests, time.monotonic, time.sleep):
                name = clip.request.name
                written[name] = _write(folder, clip, options.png and not single)
        except (ValueError, OSError) as error:
            done = f"{len(written)} of {len(requests)} clips are complete, in {folder}"
            raise ValueError(f"{error}; {done}" if written else str(error)) from error
        seconds = time.monotonic() - started
    clips = [written[request.name] for request in requests]
    total = sum(clip["frames"] for clip in clips)
    return {
        "model": model.entry.name,
        "device": str(device),
        "tensor_devices": devices,
        "dtype": str(dtype).removeprefix("torch."),
        "policy": str(policy),
        "fps": model.entry.fps,
        "clips": clips,
        "frames": total,
        "seconds": round(seconds, 3),
        "frames_per_second": round(total / seconds, 2),
    }


def _engine(
    model: LoadedModel,
    policy: WorkPolicy,
    options: argparse.Namespace,
    requests: Sequence[ClipRequest],
    stack: ExitStack,
) -> Engine:
    """Build the engine; ``stack`` ends the processes of other devices."""
    devices, batch = options.tensor_devices, min(options.batch, BATCH_SIZES[-1])
    config = EngineConfig(max_sessions=1, max_jobs=options.batch, max_batch=batch, devices=devices)
    # Clips run in the largest batch there is: there is nothing to measure.
    costs = CostTable({1: 1.0, batch: 1.0}, 0.0)
    sampler = model.entry.sampler
    own_steps = len(sampler.steps), len(sampler.first_chunk_steps or ())
    kernels = select(Target(model.device, model.dtype, model.entry.transformer.head_dim))
    followers = None
    if devices > 1:
        followers = stack.enter_context(Followers.start(model, devices, kernels=kernels))
        if model.device.type == "cuda":
            accelerate(model.transformer, kernels)
    return assemble(
        model,
        config,
        time.monotonic,
        policy,
        kernels,
        costs=costs,
        max_steps=max(*own_steps, *(request.steps or 0 for request in requests)),
        followers=followers,
    )


def _write(folder: Path, clip: Clip, png: bool) -> dict[str, Any]:
    """Write one clip; return what is said about it."""
    request, frames = clip.request, clip.frames
    about = {
        "name": request.name,
        "prompt": request.prompt,
        "seed": request.seed,
        "frames": len(frames),
        "switches": [
            {"event": event.event_id, "chunk": event.chunk_index, "frame": event.first_frame}
            for event in clip.applied
        ],
        **request.extra,
    }
    if png:
        target = folder / request.name
        target.mkdir(exist_ok=True)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(target / f"{index:05d}.png")
    else:
        target = folder / f"{request.name}.npz"
        np.savez_compressed(target, frames=frames, about=json.dumps(about))
    return {**about, "path": str(target)}
