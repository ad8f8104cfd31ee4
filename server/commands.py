"""The commands beside the server: ``models``, ``fetch``, ``convert``, ``doctor``.

Thin: each reads its flags, calls the part that knows, and says the outcome in one sentence. A
command returns its exit status and never leaves half of its work behind.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_DATA = Path("data")
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
        "--data-dir", type=Path, default=DEFAULT_DATA, help="weights lie in its folder models"
    )
    return parser


def models(words: Sequence[str]) -> int:
    """List the models that can be served and what each needs."""
    from models.needs import describe
    from models.registry import ENTRIES
    from server.worker.build import cache_dir, device_bytes

    parser = _parser("models", "List models, what they need and whether their files are here.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    room = device_bytes()
    cache = cache_dir(options.data_dir)
    found = [describe(entry, cache_dir=cache, device_bytes=room) for entry in ENTRIES]
    if options.json:
        _out(json.dumps(found, indent=1))
        return 0
    for model in found:
        fit = model["streams_that_fit"]
        _out(
            f"{model['name']:28} {'here' if model['present'] else 'to fetch':9} "
            f"{_size(model['disk_bytes']):>9} on disk  {_size(model['weights_bytes']):>9} weights  "
            f"{'' if fit is None else f'{fit} streams fit'}  {model['title']}"
        )
    return 0


def fetch(words: Sequence[str]) -> int:
    """Download a model's files, verified and resumable."""
    from tqdm import tqdm

    from models.fetch import FetchError, fetch_model
    from models.hub import HubRemote
    from models.registry import find
    from server.worker.build import cache_dir

    parser = _parser("fetch", "Download a model; its licence is shown first.")
    parser.add_argument("model", help="a name that `python -m server models` lists")
    parser.add_argument("--codec", help="one of the model's codecs; its default when absent")
    options = parser.parse_args(words)
    bars: dict[str, tqdm[None]] = {}

    def progress(path: str, done_bytes: int, total_bytes: int) -> None:
        bar = bars.get(path)
        if bar is None:
            bar = bars[path] = tqdm(total=total_bytes, unit="B", unit_scale=True, desc=path)
        bar.update(done_bytes - bar.n)

    try:
        cache = cache_dir(options.data_dir)
        entry = find(options.model)
        files = fetch_model(
            entry, cache, progress, remote=HubRemote(), say=_out, codec=options.codec
        )
    except (FetchError, ValueError, OSError) as error:
        return _cannot(error)
    finally:
        for bar in bars.values():
            bar.close()
    _out(f"{options.model}: {len(files)} files are in {cache}")
    return 0


def convert(words: Sequence[str]) -> int:
    """Write a model's transformer as one safetensors file in the project's layout."""
    from models.checkpoint import CheckpointError
    from models.convert import convert as write
    from server.worker.build import DTYPES, cache_dir

    parser = _parser("convert", "Write one safetensors file with a card; load it by its folder.")
    parser.add_argument("model", help="a name, or NAME@path for other weights of the same kind")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--codec", help="the codec its card names")
    options = parser.parse_args(words)
    try:
        file = write(
            options.model,
            options.out,
            cache_dir=cache_dir(options.data_dir),
            dtype=DTYPES[options.dtype],
            codec=options.codec,
        )
    except (CheckpointError, ValueError, OSError) as error:
        return _cannot(error)
    _out(f"{file} is written; serve it with --model {options.out}")
    return 0


def doctor(words: Sequence[str]) -> int:
    """Say what this machine has and what will be used, with reasons."""
    from server.doctor import examine

    parser = _parser("doctor", "Say what this machine has and what will be used, with reasons.")
    parser.add_argument("--device", default="auto", help="device to look at")
    options = parser.parse_args(words)
    findings = examine(options.device)
    for finding in findings:
        _out(f"{'ok ' if finding.good else 'no '} {finding.what}: {finding.detail}")
    return 0 if all(finding.good or not finding.needed for finding in findings) else 1


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
