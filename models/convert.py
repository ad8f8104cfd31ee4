"""Write a model's transformer as one safetensors file in the project's layout.

Original names, one dtype, LoRA merged, a card beside it; ``load_model`` takes the folder. The
file is written tensor by tensor, so memory holds one tensor and not the model, and it appears
under its name only when it is complete.
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.card import CARD, card_of
from models.checkpoint import CheckpointError
from models.loading import locate, transformer_tensors

__all__ = ["convert", "write_safetensors"]

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Progress = Callable[[str, int, int], None]
"""Called with what is being written, bytes done and bytes in all."""


def convert(
    name_or_path: str,
    out: Path,
    *,
    cache_dir: Path | None,
    dtype: torch.dtype = torch.bfloat16,
    codec: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a model's transformer.

    Text encoder, tokenizer and codec are copied for a model that is not fetched. Else they are
    shared by the models of a family and stay in the cache folder.

    Args:
        name_or_path: as for ``load_model``.
        out: folder to make; it must not exist or be empty.
        cache_dir: where fetched files are.
        dtype: of the tensors written.
        codec: the codec the card names; the entry's default when absent.
        progress: told after every tensor.

    Returns:
        The file written.

    Raises:
        CheckpointError: the model is not complete or does not fit its entry, ``out`` is not
            empty, or it could not be written.
    """
    if out.is_dir() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; a new folder is made; name another one")
    entry, chosen, sources = locate(name_or_path, cache_dir, codec)
    shapes, tensors = transformer_tensors(entry, sources)
    file = out / "transformer.safetensors"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed: other programs see a whole folder or none.
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out} cannot be made ({error}); name another folder") from error
    try:
        write_safetensors(
            staging / file.name,
            shapes,
            ((name, tensor.to(dtype)) for name, tensor in tensors),
            dtype,
            metadata={"format": "pt", "model": entry.name},
            progress=progress,
        )
        card = json.dumps(card_of(entry, chosen), indent=1) + "\n"
        (staging / CARD).write_text(card, encoding="utf-8")
        if entry.bundled:
            for source, name in (
                (sources.codec.path, "codec.safetensors"),
                (sources.text.path, "text.safetensors"),
                (sources.tokenizer, "tokenizer.model"),
            ):
                shutil.copyfile(source, staging / name)
        staging.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        staging.replace(out)
    except OSError as error:
        raise CheckpointError(
            f"{file} could not be written ({error}); nothing was left behind; free some space or "
            "name another folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return file


def write_safetensors(
    path: Path,
    shapes: Mapping[str, torch.Size],
    tensors: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write tensors one after the other in the safetensors format.

    Args:
        path: the file; it is synced before this returns.
        shapes: of all tensors, in the order in which they come.
        tensors: names and values, each of ``dtype``.
        dtype: of all of them.
        metadata: strings for the header.
        progress: told after every tensor.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    size = torch.empty(0, dtype=dtype).element_size()
    offset = 0
    for name, shape in shapes.items():
        end = offset + shape.numel() * size
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    done = 0
    expected = iter(shapes.items())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in tensors:
            assert next(expected) == (name, tensor.shape), "tensors come in the order of shapes"
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            done += file.write(raw.numpy().data)
            if progress is not None:
                progress(name, done, offset)
        assert next(expected, None) is None, "every tensor of shapes comes"
        file.flush()
        os.fsync(file.fileno())
