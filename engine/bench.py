"""``python -m engine bench``: frames a second of a model on this device, window always stated.

Every row is measured by ``engine.benchmark``: denoising alone, with the tiny decoder and with
Wan's VAE where the model has it, one batch size after another, on a GPU both eagerly and
captured. Rates of the device's matrix products are measured first and every row says which share
of them it reaches. With ``--json`` the last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from engine import work_policy
from engine.benchmark import Case, matmul_rate, run_case
from engine.dtype import choose_dtype
from engine.work_policy import WorkPolicy
from kernels.select import Target, select
from models.accelerate import accelerate
from models.config import TransformerConfig
from models.entry import ModelEntry
from models.interface import LoadedModel, VideoCodec
from models.loading import load_model
from models.needs import build_codec
from models.random_model import random_model
from models.registry import find
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.vae import VaeConfig

__all__ = ["device_name", "main", "shrunk"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEFAULT_WINDOW_FRAMES = 21


def main(arguments: Sequence[str]) -> int:
    """Run the command with the words after ``bench``; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        report = _measure(options)
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
    add("--random-weights", action="store_true", help="draw weights instead of reading them")
    add("--shrink", action="store_true", help="small widths of the same architecture")
    add("--size", help="WIDTHxHEIGHT; the model's first size when absent")
    add("--growing", action="store_true", help="clips from an empty window instead of a full one")
    add("--steps", type=int, help="denoising steps; the model's or the policy's number when absent")
    add("--batch", default="1,2,4", help="streams in one forward pass, separated by commas")
    add("--chunks", type=int, default=30, help="timed with a full window, for every row")
    add("--decoder", default="none,taehv,wan-vae", help="none, and names of codecs")
    add("--kernels", default="auto", help="auto, torch, sdpa, cudnn, flash or triton")
    add("--mode", default="eager,captured", help="captured needs a CUDA device")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=("auto", *DTYPES), default="auto")
    add("--json", action="store_true", help="end with one line of JSON")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    clock = time.perf_counter
    policy = work_policy.from_flags(options)
    policy.check_steps(options.steps)
    device = torch.device(options.device)
    dtype = DTYPES.get(options.dtype) or choose_dtype(device, clock)
    entry = find(options.model)
    if options.shrink:
        entry = shrunk(entry)
    target = Target(device, dtype, entry.transformer.head_dim)
    kernels = select(target, options.kernels)
    if options.random_weights or options.shrink:
        model = random_model(entry, device=device, dtype=dtype, kernels=kernels)
    else:
        model = load_model(options.model, device=device, dtype=dtype, kernels=kernels)
    accelerate(model.transformer, kernels, policy.linear, join=device.type == "cuda")
    rate = matmul_rate(device, dtype, clock)
    rows = []
    for case, name, codec in _cases(options, policy, model):
        row = run_case(model, case, kernels, clock, codec, rate)
        row["decoder"] = name
        rows.append(row)
        print(  # noqa: T201
            f"{row['frames_per_s']:8.2f} frames/s, {row['pass_ms']:8.2f} ms a pass: "
            f"batch {case.batch}, decoder {name}, {row['window']} window of "
            f"{case.window_frames} latent frames with {case.sink_frames} sink frames, "
            f"{'captured' if row['captured'] else 'eager'}, warmed up in {row['warm_up_s']:.1f} s",
            file=sys.stderr,
        )
    return {
        "model": entry.name + (" (shrunk)" if options.shrink else ""),
        "weights": "random" if options.random_weights or options.shrink else "trained",
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "policy": str(policy),
        "matmul_tflops": round(rate / 1e12, 3),
        "rows": rows,
    }


def _cases(
    options: argparse.Namespace, policy: WorkPolicy, model: LoadedModel
) -> list[tuple[Case, str, VideoCodec | None]]:
    entry = model.entry
    own = entry.cache
    if own.window_frames is None:
        own = replace(own, window_frames=DEFAULT_WINDOW_FRAMES)
    cache = policy.cache(own)
    window, sink = cache.window_frames, cache.sink_frames
    assert window is not None, "a window was given above"
    width, height = entry.sizes[0]
    if options.size is not None:
        width, height = (int(part) for part in options.size.split("x"))
    codecs: dict[str, VideoCodec | None] = {"none": None}
    for codec in entry.codecs:
        if codec.name not in options.decoder.split(","):
            continue
        if codec.name == entry.codec.name:
            codecs[codec.name] = model.codec
        else:
            # A second codec has random weights: it costs what the real one does.
            with model.device:
                built = build_codec(codec.config).to(model.dtype)
            codecs[codec.name] = built.requires_grad_(False).eval()
    modes = options.mode.split(",")
    captured = [mode == "captured" for mode in modes if mode in ("eager", "captured")]
    if model.device.type != "cuda":
        captured = [False]
    if not captured:
        raise ValueError(f'mode "{options.mode}"; eager and captured are possible; choose one')
    steps = options.steps or policy.sampler(entry.sampler).num_steps
    name = f"{window}-frame window, {sink} sink frames"
    return [
        (
            Case(
                name,
                (width, height),
                window,
                sink,
                steps,
                batch=batch,
                captured=mode,
                policy=policy,
                growing=options.growing,
                chunks=options.chunks,
            ),
            decoder,
            codecs[decoder],
        )
        for batch in (int(word) for word in options.batch.split(","))
        for decoder in options.decoder.split(",")
        if decoder in codecs
        for mode in captured
    ]


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
