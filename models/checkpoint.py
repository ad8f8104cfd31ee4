"""Reading weights from files: what is in them, under the original names, checked tensor by tensor.

Safetensors, sharded safetensors and pickles are mapped into memory and copied straight to their
final dtype and device. Pickles go through torch's restricted reader only, which runs no code.
Everything is strict: a missing, unexpected or mis-shaped tensor is one error that names the
tensor and the file. Which file belongs to which model is none of its business.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

__all__ = [
    "CheckpointError",
    "LoraUpdate",
    "Weights",
    "assign",
    "lora_updates",
    "merged",
    "plain_names",
    "read_weights",
    "renamed",
]

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_CONTAINERS = ("generator_ema", "generator", "model", "state_dict")
_SHOWN = 3


class CheckpointError(ValueError):
    """A file does not hold the weights that were asked for; the message says what it holds."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors and where they came from, for error messages."""

    tensors: Mapping[str, Tensor]
    source: str


@dataclass(frozen=True, slots=True)
class LoraUpdate:
    """A low-rank update of one weight, ``scale * b @ a``.

    Attributes:
        a: ``[rank, in]``.
        b: ``[out, rank]``.
    """

    a: Tensor
    b: Tensor
    scale: float


def read_weights(path: Path, keys: Iterable[str] = ()) -> Weights:
    """Map a checkpoint into memory.

    Args:
        path: a ``.safetensors`` file, the ``.index.json`` of a sharded one, a folder with one
            of them, or a pickle written by ``torch.save``.
        keys: names under which a pickle may hold the state dict, best first; after them the
            names in common use are tried, since trainers disagree.

    Raises:
        CheckpointError: there is no such file, or it is damaged or holds something else.
    """
    path = _inside(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; fetch the model or correct the path")
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path, tuple(keys))


def plain_names(weights: Weights) -> Weights:
    """Strip what training wrappers put into names: FSDP, checkpointing, compile, ``model.``."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        plain = _plain(name)
        if plain in tensors:
            raise CheckpointError(
                f"{weights.source} holds {plain} twice, the second time as {name}; one is "
                "allowed; write the checkpoint again"
            )
        tensors[plain] = tensor
    return Weights(tensors, weights.source)


def renamed(weights: Weights, rename: Callable[[str], str | None]) -> Weights:
    """Translate names; ones that ``rename`` does not know are kept, and fail as unexpected.

    Two names of one tied tensor may meet; the first is kept.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        tensors.setdefault(rename(name) or name, tensor)
    return Weights(tensors, weights.source)


def lora_updates(weights: Weights, alpha: float) -> dict[str, LoraUpdate]:
    """Read a PEFT state dict as updates by weight name.

    Args:
        weights: tensors ``[base_model.model.]<module>.lora_A[.<adapter>].weight`` and ``lora_B``.
        alpha: an update is scaled by ``alpha / rank``.

    Raises:
        CheckpointError: a tensor is not part of a pair, or a pair does not fit together.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.tensors.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight", name)
        if match is None or tensor.dim() != 2:
            raise CheckpointError(
                f"{weights.source}: {name} is not a LoRA matrix; only lora_A and lora_B weights "
                "of linear layers can be merged"
            )
        target = _plain(match[1].removeprefix("base_model.model.")) + ".weight"
        halves.setdefault(target, {})[match[2]] = tensor
    updates: dict[str, LoraUpdate] = {}
    for target, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {half: tuple(tensor.shape) for half, tensor in pair.items()}
            raise CheckpointError(
                f"{weights.source}: LoRA of {target} has {shapes}; A [rank, in] and B [out, rank] "
                "are needed; write the LoRA again"
            )
        updates[target] = LoraUpdate(pair["A"], pair["B"], alpha / pair["A"].shape[0])
    return updates


def assign(
    module: nn.Module,
    weights: Weights,
    *,
    device: torch.device,
    dtype: torch.dtype,
    updates: Mapping[str, LoraUpdate] | None = None,
    updates_source: str = "",
) -> None:
    """Give ``module`` (built on the meta device) its weights and put it in evaluation mode.

    Args:
        module: its state dict says which tensors are needed.
        weights: under the original names.
        device: where the tensors go, one at a time.
        dtype: of all of them.
        updates: LoRA updates to add, computed in float32.
        updates_source: where they came from.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    # A copy even where nothing changes: the file may be replaced while the model runs.
    placed = {
        name: tensor.to(device=device, dtype=dtype, copy=True)
        for name, tensor in merged(shapes, weights, updates or {}, updates_source)
    }
    module.load_state_dict(placed, assign=True)
    module.requires_grad_(False).eval()


def merged(
    shapes: Mapping[str, torch.Size],
    weights: Weights,
    updates: Mapping[str, LoraUpdate],
    updates_source: str,
) -> Iterator[tuple[str, Tensor]]:
    """Check ``weights`` against ``shapes``, then give them one by one with updates added.

    Args:
        shapes: what is needed, by name.
        weights: under the original names.
        updates: LoRA updates to add, computed in float32.
        updates_source: where they came from.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; before the first
            is given.
    """
    check(shapes, weights)
    for name, update in updates.items():
        shape = torch.Size((update.b.shape[0], update.a.shape[1]))
        if shapes.get(name) != shape:
            raise CheckpointError(
                f"{updates_source}: LoRA of {name} is {tuple(shape)}; the model has "
                f"{_shape(shapes.get(name))}; use the LoRA of this checkpoint"
            )

    def each() -> Iterator[tuple[str, Tensor]]:
        for name in shapes:
            tensor, lora = weights.tensors[name], updates.get(name)
            if lora is not None:
                a, b = lora.a.float(), lora.b.float()
                tensor = torch.addmm(tensor.float(), b, a, alpha=lora.scale)
            yield name, tensor

    return each()


def check(expected: Mapping[str, torch.Size], weights: Weights) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: they differ; the message names tensors and file.
    """
    got = weights.tensors
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    odd = [
        f"{name} {tuple(got[name].shape)} where {tuple(shape)} is needed"
        for name, shape in expected.items()
        if name in got and got[name].shape != shape
    ]
    problems = [
        f"{label}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", odd))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{weights.source} does not fit the model; {'; '.join(problems)}; "
            "use a checkpoint of this architecture"
        )


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(("model.", "module.")):
        name = name.split(".", 1)[1]
    return name


def _shape(shape: torch.Size | None) -> str:
    return "no such weight" if shape is None else str(tuple(shape))


def _inside(path: Path) -> Path:
    """Find the one checkpoint of a folder; a file is returned as it is."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(item.name for item in found) or "none"
        raise CheckpointError(
            f"{path} has {len(found)} safetensors checkpoints ({names}); one is needed; "
            "name the file"
        )
    return found[0]


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); fetch it again"
        ) from error
    return Weights(tensors, str(path))


def _read_sharded(path: Path) -> Weights:
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not the index of a sharded checkpoint; fetch it again"
        ) from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"{path} names a shard {shard!r} outside its folder; refused; fetch it again"
            )
        part = read_weights(path.parent / shard).tensors
        wanted = {name for name, where in weight_map.items() if where == shard}
        if lost := sorted(wanted - set(part)):
            raise CheckpointError(
                f"{path.parent / shard} lacks {lost[0]} that {path.name} says it has; "
                "fetch the shards again"
            )
        tensors.update({name: part[name] for name in wanted})
    return Weights(tensors, str(path))


def _read_pickle(path: Path, keys: tuple[str, ...]) -> Weights:
    try:
        with warnings.catch_warnings():
            # About pickles of other programs; whether this one can be read is said below.
            warnings.simplefilter("ignore", UserWarning)
            # Only the zip format (torch 1.6 and later) can be mapped.
            tree = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:
        # What torch raises for bytes that are no pickle depends on the bytes.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} was not read: it is damaged, or holds more than tensors and would run code "
            f"({reason}); only plain tensors are accepted; fetch it again or convert it to "
            "safetensors where you trust it"
        ) from error
    return _select(tree, keys, str(path))


def _select(tree: Any, keys: tuple[str, ...], source: str) -> Weights:
    if isinstance(tree, dict):
        if tree and all(isinstance(value, Tensor) for value in tree.values()):
            return Weights(tree, source)
        for key in (*keys, *_CONTAINERS):
            if isinstance(tree.get(key), dict):
                return _select(tree[key], (), f"{source}[{key}]")
    held = ", ".join(map(str, list(tree)[:6])) if isinstance(tree, dict) else type(tree).__name__
    raise CheckpointError(
        f"{source} holds {held}; a state dict, or one under "
        f"{', '.join(dict.fromkeys((*keys, *_CONTAINERS)))}, is needed; use another file"
    )
