"""``python -m engine bench``: frames a second of a model on this device, window always stated.

Every row is measured by ``engine.benchmark``: denoising alone, with the tiny decoder and with
Wan's VAE where the model has it, one batch size after another, on a GPU both eagerly and
captured. Rates of the device's matrix products are measured first and every row says which share
of them it reaches. With ``--json`` the last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from engine import work_policy
from engine.benchmark import Case, run_case, with_share
from engine.device import open_device
from engine.dtype import MEASURED, dtype_named
from engine.flops import matmul_rate
from engine.picture_size import parse_size
from engine.work_policy import WorkPolicy
from kernels.select import Target, select
from models.accelerate import accelerate
from models.card import shipped
from models.config import TransformerConfig
from models.entry import ModelEntry
from models.interface import LoadedModel, VideoCodec
from models.loading import load_model, locate
from models.random_model import random_model
from models.registry import find
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.vae import VaeConfig

__all__ = ["device_name", "main", "shrunk"]


def main(arguments: Sequence[str]) -> int:
    """Run the command with the words after ``bench``; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        report = _measure(options)
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split(". ")[:2])
        print(  # noqa: T201
            f"error: {options.model} does not fit on {options.device}: {reason}; choose a smaller "
            "--batch, --window or --size",
            file=sys.stderr,
        )
        return 2
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if options.json:
        print(json.dumps(report))  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine bench", description=__doc__.split("\n\n")[0]
    )
    work_policy.add_flags(parser)
    add = parser.add_argument
    add("--model", default="longtake-tiny", help="a model's name, name@path, or its folder")
    add("--cache-dir", type=Path, help="where fetched weights are")
    add("--random-weights", action="store_true", help="draw weights instead of reading them")
    add("--shrink", action="store_true", help="small widths of the same architecture")
    add("--size", help="WIDTHxHEIGHT; the model's first size when absent")
    add("--growing", action="store_true", help="clips from an empty window instead of a full one")
    add("--steps", type=int, help="denoising steps; the model's or the policy's number when absent")
    add("--batch", default="1,2,4", help="streams in one forward pass, separated by commas")
    add("--chunks", type=int, default=30, help="timed with a full window, for every row")
    add("--decoder", help="none, and names of codecs, separated by commas; all when absent")
    add("--kernels", default="auto", help="auto, torch, sdpa, cudnn, flash or triton")
    add("--mode", help="eager, captured or both; both when absent, on a CUDA device")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--dtype", choices=("auto", *MEASURED), default="auto")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    clock = time.perf_counter
    policy = work_policy.from_flags(options)
    policy.check_steps(options.steps)
    device = open_device(options.device)
    dtype = dtype_named(options.dtype, device, clock)
    random = options.random_weights or options.shrink
    entry = shipped(find(options.model)) if random else locate(options.model, options.cache_dir)[0]
    if options.shrink:
        entry = shrunk(entry)
    modes, decoders, size = (
        _modes(options, device),
        _decoders(options, entry),
        _size(options, entry),
    )
    batches = _numbers("--batch", options.batch)
    (chunks,) = _numbers("--chunks", str(options.chunks))
    target = Target(device, dtype, entry.transformer.head_dim)
    kernels = select(target, options.kernels)
    if random:
        model = random_model(entry, device=device, dtype=dtype, kernels=kernels)
    else:
        model = load_model(
            options.model,
            device=device,
            dtype=dtype,
            cache_dir=options.cache_dir,
            kernels=kernels,
        )
    accelerate(model.transformer, kernels, policy.linear, join=device.type == "cuda")
    # Before and after: whatever else runs here may have slowed one of them.
    rate = matmul_rate(device, dtype, clock)
    rows = []
    first = _case(options, policy, entry, size, chunks)
    for batch, name, mode in itertools.product(batches, decoders, modes):
        case = replace(first, batch=batch, captured=mode == "captured")
        row = run_case(model, case, kernels, clock, _codec(model, name)) | {"decoder": name}
        rows.append(row)
        print(  # noqa: T201
            f"{row['frames_per_s']:8.2f} frames/s, {row['pass_ms']:8.2f} ms a pass: "
            f"batch {case.batch}, decoder {name}, {row['window']} window of "
            f"{case.window_frames} latent frames with {case.sink_frames} sink frames, "
            f"{'captured' if row['captured'] else 'eager'}, warmed up in {row['warm_up_s']:.1f} s",
            file=sys.stderr,
        )
    rate = max(rate, matmul_rate(device, dtype, clock))
    return {
        "model": entry.name + (" (shrunk)" if options.shrink else ""),
        "weights": "random" if options.random_weights or options.shrink else "trained",
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "policy": str(policy),
        "matmul_tflops": round(rate / 1e12, 3),
        "matmul_bf16_tflops": round(matmul_rate(device, torch.bfloat16, clock) / 1e12, 3),
        "rows": [with_share(row, rate) for row in rows],
    }


def _case(
    options: argparse.Namespace,
    policy: WorkPolicy,
    entry: ModelEntry,
    size: tuple[int, int],
    chunks: int,
) -> Case:
    """Return what all rows have in common."""
    cache = policy.cache(replace(entry.cache, window_frames=entry.cache.planned_window))
    window, sink = cache.window_frames, cache.sink_frames
    assert window is not None, "a window is planned above"
    most = len(entry.sampler.steps)
    steps = policy.sampler(entry.sampler).num_steps if options.steps is None else options.steps
    if not 1 <= steps <= most:
        raise ValueError(f"--steps {steps}; {entry.name} takes 1 to {most}")
    return Case(
        f"{window}-frame window, {sink} sink frames",
        size,
        window,
        sink,
        steps,
        policy=policy,
        growing=options.growing,
        chunks=chunks,
    )


def _numbers(flag: str, text: str) -> list[int]:
    """Read whole numbers of at least 1, separated by commas."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) >= 1 for word in words):
        raise ValueError(f"{flag} {text}; whole numbers of at least 1, such as 1 or 1,2,4")
    return [int(word) for word in words]


def _size(options: argparse.Namespace, entry: ModelEntry) -> tuple[int, int]:
    """Return the picture's size, which must divide into patches."""
    if options.size is None:
        return entry.sizes[0]
    return replace(entry, sizes=(parse_size(options.size),)).sizes[0]


def _modes(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Return eager, captured or both."""
    if options.mode is None:
        return ["eager", "captured"] if device.type == "cuda" else ["eager"]
    modes = str(options.mode).split(",")
    if not set(modes) <= {"eager", "captured"}:
        raise ValueError(f"--mode {options.mode}; eager, captured, or both with a comma")
    if "captured" in modes and device.type != "cuda":
        raise ValueError(f"--mode {options.mode} on {device}; captured needs a CUDA device")
    return modes


def _decoders(options: argparse.Namespace, entry: ModelEntry) -> list[str]:
    """Return none and names of codecs; without a flag all that the model has."""
    known = ["none", *(codec.name for codec in entry.codecs)]
    if options.decoder is None:
        return known
    words = str(options.decoder).split(",")
    if not set(words) <= set(known):
        raise ValueError(f"--decoder {options.decoder}; {entry.name} has {', '.join(known)}")
    return words


def _codec(model: LoadedModel, name: str) -> VideoCodec | None:
    """Return a codec of the model; one that was not loaded costs the same with random weights."""
    if name == "none":
        return None
    if name == model.entry.codec.name:
        return model.codec
    with model.device:
        built = model.entry.codec_named(name).build().to(model.dtype)
    return built.requires_grad_(False).eval()


def shrunk(entry: ModelEntry) -> ModelEntry:
    """Return the entry with small widths and a small picture, its policy and sampler kept."""
    text = TextEncoderConfig(
        vocab_size=300, dim=64, dim_attn=64, dim_ffn=128, num_heads=2, num_layers=1, text_len=32
    )
    transformer = TransformerConfig(
        dim=256, ffn_dim=1024, num_heads=2, num_layers=4, text_dim=64, text_len=32
    )
    codecs = tuple(
        replace(
            codec,
            config=TaehvConfig(decoder_widths=(32, 16, 8, 8), encoder_width=8)
            if isinstance(codec.config, TaehvConfig)
            else VaeConfig(dim=8),
        )
        for codec in entry.codecs
    )
    return replace(entry, transformer=transformer, text=text, codecs=codecs, sizes=((160, 96),))


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else device.type
