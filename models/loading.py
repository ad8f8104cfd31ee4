"""From a name or a path to a model that is ready to run.

``name`` is a registry entry, whose files lie in the cache folder or come with the program;
``name@path`` takes other transformer weights of the same kind, a file or a diffusers folder;
a folder with a ``card.json`` is a model in the project's own layout. Modules are built on the
meta device and given their tensors one by one, so nothing is held twice. Nothing is downloaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.interface import Kernels
from models.card import CARD, read_card, shipped
from models.checkpoint import (
    CheckpointError,
    LoraUpdate,
    Weights,
    assign,
    lora_updates,
    merged,
    plain_names,
    read_weights,
    renamed,
)
from models.codec_names import umt5_from_transformers, vae_from_diffusers
from models.entry import BUNDLED, Codec, ModelEntry
from models.interface import LoadedModel
from models.names import from_diffusers
from models.random_model import random_model
from models.registry import find
from models.taehv import Taehv
from models.text_encoder import UMT5, TextEncoder
from models.text_host import TextEncoderHost, TextPlacement
from models.tokenizer import SentencePieceTokenizer
from models.transformer import CausalWan
from models.vae import WanVae

__all__ = ["Source", "Sources", "load_model", "locate", "transformer_tensors"]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on disk, and the names its state dict may have inside."""

    path: Path
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the parts of one model lie."""

    transformer: Source
    codec: Source
    text: Source
    tokenizer: Path
    lora: Source | None = None


def load_model(
    name_or_path: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache_dir: Path | None = None,
    codec: str | None = None,
    kernels: Kernels | None = None,
    text_placement: TextPlacement = "device",
    random_weights: bool = False,
) -> LoadedModel:
    """Load a model.

    Args:
        name_or_path: an entry's name, ``name@path``, or a folder in the project's layout.
        device: for transformer and codec.
        dtype: of all weights and activations.
        cache_dir: where fetched files are; the bundled model needs none.
        codec: name of one of the entry's codecs; the default when absent.
        kernels: operations for the transformer; plain torch when absent.
        text_placement: where the text encoder lives and works.
        random_weights: read nothing and draw the weights of the named entry instead.

    Raises:
        CheckpointError: a file is missing, damaged, or of another model.
        ValueError: the name or the codec is not known.
    """
    if random_weights:
        return random_model(
            shipped(find(name_or_path)),
            device=device,
            dtype=dtype,
            codec=codec,
            kernels=kernels,
            text_placement=text_placement,
        )
    entry, chosen, sources = locate(name_or_path, cache_dir, codec)
    place = torch.device(device)
    # Read the small parts first: a wrong tokenizer should not cost a minute of loading.
    tokenizer = _tokenizer(sources.tokenizer)
    with torch.device("meta"):
        network, decoder = UMT5(entry.text), chosen.build()
        transformer = CausalWan(entry.transformer, kernels)
    _fill_codec(decoder, sources.codec, place, dtype)
    weights, updates, origin = _read_transformer(entry, sources)
    assign(transformer, weights, device=place, dtype=dtype, updates=updates, updates_source=origin)
    text_device = place if text_placement == "device" else torch.device("cpu")
    _fill(network, sources.text, umt5_from_transformers, text_device, dtype)
    text = TextEncoderHost(
        TextEncoder(network, tokenizer), device=place, dtype=dtype, placement=text_placement
    )
    return LoadedModel(entry.with_codec(chosen), transformer, text, decoder, place, dtype)


def locate(
    name_or_path: str, cache_dir: Path | None, codec: str | None = None
) -> tuple[ModelEntry, Codec, Sources]:
    """Find the files of a model without opening them.

    Args:
        name_or_path: as for ``load_model``.
        cache_dir: where fetched files are.
        codec: name of one of the entry's codecs; the default when absent.

    Raises:
        CheckpointError: files are missing; the message says how to get them.
        ValueError: the name or the codec is not known.
    """
    name, _, path = name_or_path.partition("@")
    folder = Path(name_or_path)
    if (folder / CARD).is_file():
        entry = read_card(folder / CARD)
        chosen = entry.codec_named(codec)
        return entry, chosen, _project_layout(entry, chosen, folder, cache_dir)
    if folder.is_dir():
        raise CheckpointError(
            f"{folder} has no {CARD}; to load other weights of a known kind, say NAME@{folder}"
        )
    entry = find(name)
    chosen = entry.codec_named(codec)
    if entry.bundled:
        home = BUNDLED / entry.name
        if (home / CARD).is_file():
            entry = read_card(home / CARD)
            chosen = entry.codec_named(codec)
        base = _project_layout(entry, chosen, home, cache_dir)
        if path:
            if not Path(path).exists():
                raise CheckpointError(f"{path} does not exist; correct the path after {name}@")
            base = replace(base, transformer=Source(Path(path)))
    else:
        base = _cached(entry, chosen, cache_dir, Path(path) if path else None)
    return entry, chosen, base


def _project_layout(
    entry: ModelEntry, codec: Codec, folder: Path, cache_dir: Path | None
) -> Sources:
    """Take what ``folder`` has, and the rest from the entry's own files."""
    own = {
        part: folder / name
        for part, name in (
            ("transformer", "transformer.safetensors"),
            ("codec", "codec.safetensors"),
            ("text", "text.safetensors"),
            ("tokenizer", "tokenizer.model"),
        )
    }
    absent = [part for part, path in own.items() if not path.is_file()]
    if not absent or entry.bundled:
        if absent:
            raise CheckpointError(
                f"{folder} lacks {own[absent[0]].name}; a model in this layout has "
                f"{', '.join(path.name for path in own.values())}; restore the folder"
            )
        return Sources(
            Source(own["transformer"]), Source(own["codec"]), Source(own["text"]), own["tokenizer"]
        )
    if "transformer" in absent:
        raise CheckpointError(f"{folder} lacks transformer.safetensors; convert the model again")
    base = _cached(entry, codec, cache_dir, own["transformer"])
    return Sources(
        Source(own["transformer"]),
        base.codec if "codec" in absent else Source(own["codec"]),
        base.text if "text" in absent else Source(own["text"]),
        base.tokenizer if "tokenizer" in absent else own["tokenizer"],
    )


def _cached(entry: ModelEntry, codec: Codec, cache_dir: Path | None, other: Path | None) -> Sources:
    """Look in the cache folder; ``other`` replaces the transformer, or more if a folder."""
    if cache_dir is None:
        raise CheckpointError(f"{entry.name} is not bundled; a cache folder is needed; name one")
    assert entry.checkpoint is not None
    assert entry.text_checkpoint is not None
    assert entry.tokenizer is not None
    assert codec.checkpoint is not None
    transformer = Source(entry.checkpoint.file.local(cache_dir), entry.checkpoint.keys)
    vae = Source(codec.checkpoint.file.local(cache_dir), codec.checkpoint.keys)
    text = Source(entry.text_checkpoint.file.local(cache_dir), entry.text_checkpoint.keys)
    tokenizer = entry.tokenizer.local(cache_dir)
    lora = None if entry.lora is None else Source(entry.lora.file.local(cache_dir), entry.lora.keys)
    if other is not None:
        # Other weights are taken as they are; the entry's LoRA belongs to its own base.
        transformer, lora = Source(other, entry.checkpoint.keys), None
        if (other / "transformer").is_dir():
            transformer = Source(other / "transformer")
            if (other / "text_encoder").is_dir():
                text = Source(other / "text_encoder")
            if (other / "tokenizer" / "spiece.model").is_file():
                tokenizer = other / "tokenizer" / "spiece.model"
            if (other / "vae").is_dir() and codec.name == "wan-vae":
                vae = Source(other / "vae")
    paths = [transformer.path, vae.path, text.path, tokenizer, *([lora.path] if lora else ())]
    if absent := [path for path in paths if not path.exists()]:
        raise CheckpointError(
            f"{entry.name} is not complete: {', '.join(map(str, absent))} "
            f"{'does' if len(absent) == 1 else 'do'} not exist; run `python -m server fetch "
            f"{entry.name}` or correct the path"
        )
    return Sources(transformer, vae, text, tokenizer, lora)


def _tokenizer(path: Path) -> SentencePieceTokenizer:
    try:
        return SentencePieceTokenizer.from_file(path)
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error


def _original(weights: Weights, marker: str, rename: Callable[[str], str | None]) -> Weights:
    """Bring ``weights`` to original names; ``marker`` in a name gives another format away."""
    if any(name.startswith(marker) for name in weights.tensors):
        return renamed(weights, rename)
    return plain_names(weights)


def _read_transformer(
    entry: ModelEntry, sources: Sources
) -> tuple[Weights, dict[str, LoraUpdate], str]:
    """Map the transformer's weights, and the LoRA to merge into them with its origin."""
    source = sources.transformer
    weights = read_weights(source.path, source.keys)
    weights = _original(weights, "condition_embedder.", from_diffusers)
    if sources.lora is None or entry.lora is None:
        return weights, {}, ""
    lora = read_weights(sources.lora.path, sources.lora.keys)
    return weights, lora_updates(lora, entry.lora.alpha), lora.source


def transformer_tensors(
    entry: ModelEntry, sources: Sources
) -> tuple[dict[str, torch.Size], Iterator[tuple[str, Tensor]]]:
    """Read a transformer for conversion, checked, LoRA merged, one tensor at a time.

    Returns:
        Shapes by original name, and the tensors in the same order.

    Raises:
        CheckpointError: a file is damaged or of another model.
    """
    with torch.device("meta"):
        module = CausalWan(entry.transformer)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    weights, updates, origin = _read_transformer(entry, sources)
    return shapes, merged(shapes, weights, updates, origin)


def _fill_codec(
    module: Taehv | WanVae, source: Source, device: torch.device, dtype: torch.dtype
) -> None:
    if isinstance(module, WanVae):
        blocks = module.config.blocks
        _fill(module, source, lambda name: vae_from_diffusers(name, blocks), device, dtype)
        return
    weights = plain_names(read_weights(source.path, source.keys))
    assign(module, module.adapt(weights), device=device, dtype=dtype)
    module.lay_out()


def _fill(
    module: nn.Module,
    source: Source,
    rename: Callable[[str], str | None],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    weights = read_weights(source.path, source.keys)
    marker = "quant_conv." if isinstance(module, WanVae) else "encoder.block."
    assign(module, _original(weights, marker, rename), device=device, dtype=dtype)
