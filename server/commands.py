"""The commands beside the server: ``models``, ``fetch``, ``convert``, ``doctor``.

Thin: each reads its flags, calls the part that knows, and says the outcome in one sentence. A
command returns its exit status and never leaves half of its work behind.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.registry import find
from server.config import default_data_dir
from server.fabric.workers import room

CANNOT = 2


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _cannot(sentence: object) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return CANNOT


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m server {name}", description=description)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(os.environ),
        help="the server's; weights lie in its folder models (default: LONGTAKE_DATA_DIR or ./data)",
    )
    return parser


def models(words: Sequence[str]) -> int:
    """List the models that can be served and what each needs."""
    from models.card import shipped
    from models.needs import describe
    from models.registry import ENTRIES
    from server.worker.build import CannotServe, cache_dir, choose_device, device_bytes

    parser = _parser("models", "List models, what they need and whether their files are here.")
    parser.add_argument("name", nargs="?", help="show this one alone")
    parser.add_argument("--device", default="auto", help="device whose memory is divided")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    try:
        memory = device_bytes(choose_device(options.device))
        chosen = ENTRIES if options.name is None else (find(options.name),)
    except (CannotServe, ValueError) as error:
        return _cannot(error)
    cache = cache_dir(options.data_dir)
    found = [describe(shipped(entry), cache_dir=cache, device_bytes=memory) for entry in chosen]
    if options.json:
        _out(json.dumps(found, indent=1))
        return 0
    for model in found:
        for line in _lines(model, memory):
            _out(line)
    return 0


def _lines(model: Mapping[str, Any], memory: int) -> Iterator[str]:
    """Say in words what ``models.needs.describe`` found; sizes in bfloat16."""
    yield f"{model['name']}: {model['title']}"
    starts = [
        word
        for word, can in (
            ("starts from an image", model["image_to_video"]),
            ("continues videos", model["continuation"]),
        )
        if can
    ]
    sizes = ", ".join(model["sizes"])
    codecs = ", ".join(model["codecs"])
    yield f"    {sizes} at {model['fps']} frames/s; {'; '.join(starts)}; codecs {codecs}"
    if model["present"]:
        yield f"    on disk {_size(model['disk_bytes'])}, all here"
    elif model["disk_bytes"]:
        yield f"    on disk {_size(model['disk_bytes'])}; run: python -m server fetch {model['name']}"
    else:
        yield f"    comes with the program, but not here: {', '.join(model['missing_files'])}"
    yield (
        f"    weights {_size(model['weights_bytes'])} and text encoder "
        f"{_size(model['text_encoder_bytes'])}; a session {_size(model['kv_bytes_per_session'])} "
        f"of keys and values and {_size(model['decoder_state_bytes_per_session'])} of decoder state"
    )
    yield (
        f"    memory of {_size(memory)} has {room(model['streams_that_fit'])}; for how many the "
        "device is fast enough is measured at start"
    )
    yield f"    licence {model['licence']}: {model['licence_url']}"


def fetch(words: Sequence[str]) -> int:
    """Download a model's files, verified and resumable."""
    from models.fetch import FetchError, fetch_model
    from models.hub import HubRemote
    from server.worker.build import cache_dir

    parser = _parser("fetch", "Download a model; its licence is shown first.")
    parser.add_argument("model", help="a name that `python -m server models` lists")
    parser.add_argument("--codec", help="one of the model's codecs; its default when absent")
    options = parser.parse_args(words)
    cache = cache_dir(options.data_dir)
    try:
        entry = find(options.model)
        with _Bars() as bars:
            files = fetch_model(
                entry, cache, bars, remote=HubRemote(), say=_out, codec=options.codec
            )
    except (FetchError, ValueError, OSError) as error:
        return _cannot(error)
    if entry.bundled:
        _out(f"{entry.name} comes with the program; there is nothing to fetch")
    else:
        _out(f"{entry.name}: {len(files)} files are in {cache}")
    return 0


def convert(words: Sequence[str]) -> int:
    """Write a model's transformer as one safetensors file in the project's layout."""
    from engine.dtype import DTYPES
    from models.checkpoint import CheckpointError
    from models.convert import convert as write
    from server.worker.build import cache_dir

    parser = _parser("convert", "Write one safetensors file with a card; load it by its folder.")
    parser.add_argument("model", help="a name, or NAME@path for other weights of the same kind")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--codec", help="the codec its card names")
    options = parser.parse_args(words)
    try:
        with _Bars() as bars:
            file = write(
                options.model,
                options.out,
                cache_dir=cache_dir(options.data_dir),
                dtype=DTYPES[options.dtype],
                codec=options.codec,
                progress=lambda _, done, total: bars("transformer.safetensors", done, total),
            )
    except (CheckpointError, ValueError, OSError) as error:
        return _cannot(error)
    _out(f"{file} is written; serve it with --model {options.out}")
    return 0


class _Bars:
    """One progress bar on stderr for each file; closed when the block ends."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *exception: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def __call__(self, path: str, done_bytes: int, total_bytes: int) -> None:
        from tqdm import tqdm

        bar = self._bars.get(path)
        if bar is None:
            bar = tqdm(total=total_bytes, unit="B", unit_scale=True, desc=path)
            self._bars[path] = bar
        bar.update(done_bytes - bar.n)


def doctor(words: Sequence[str]) -> int:
    """Say what this machine has and what will be used, with reasons."""
    from models.checkpoint import CheckpointError
    from server.doctor import examine

    parser = _parser("doctor", "Say what this machine has and what will be used, with reasons.")
    parser.add_argument("--device", default="auto", help="device to look at")
    parser.add_argument("--model", default="longtake-tiny", help="model to look for")
    options = parser.parse_args(words)
    try:
        findings = examine(options.device, options.model, options.data_dir)
    except (CheckpointError, ValueError) as error:
        return _cannot(error)
    for finding in findings:
        _out(f"{'ok ' if finding.good else 'no '} {finding.what}: {finding.detail}")
    return 0 if all(finding.good or not finding.needed for finding in findings) else 1


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
