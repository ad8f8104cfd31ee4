"""``card.json``: which model a folder of weights is, and how it differs from its entry.

A card names a registry entry and may replace its architecture, sampler, cache policy, sizes and
rate, so that weights trained at other widths load without a change to the program. Other fields
(measured figures, training data, compute) are for people and kept as they are.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from models.checkpoint import CheckpointError
from models.config import TransformerConfig
from models.entry import BUNDLED, Codec, ModelEntry
from models.policy import CachePolicy
from models.registry import find
from models.sampler import Sampler
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.vae import VaeConfig

__all__ = ["CARD", "card_of", "read_card", "shipped"]

CARD = "card.json"


def card_of(entry: ModelEntry, codec: Codec | None = None) -> dict[str, Any]:
    """Describe ``entry`` so that ``read_card`` gives the same model back.

    Args:
        entry: the model; its name must be one of the registry's.
        codec: the one whose weights lie beside the card; the entry's default when absent.
    """
    chosen = codec or entry.codec
    return {
        "model": entry.name,
        "transformer": asdict(entry.transformer),
        "text": asdict(entry.text),
        "codec": {"name": chosen.name, **asdict(chosen.config)},
        "sampler": _said(asdict(entry.sampler)),
        "cache": asdict(entry.cache),
        "sizes": [list(size) for size in entry.sizes],
        "fps": entry.fps,
        "example_prompts": list(entry.example_prompts),
    }


def shipped(entry: ModelEntry) -> ModelEntry:
    """Return the entry as the card beside its weights has it, where they come with the program.

    Raises:
        CheckpointError: the card is damaged.
    """
    card = BUNDLED / entry.name / CARD
    return read_card(card) if entry.bundled and card.is_file() else entry


def read_card(path: Path) -> ModelEntry:
    """Read the model that the folder of ``path`` holds.

    Raises:
        CheckpointError: the card is damaged, or names a model or setting that is not known.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return _entry(card)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not describe a model ({error}); it must name one under 'model'; "
            "restore or correct the card"
        ) from error


def _entry(card: Mapping[str, Any]) -> ModelEntry:
    entry = find(card["model"])
    changes: dict[str, Any] = {}
    if "transformer" in card:
        changes["transformer"] = TransformerConfig(**_tuples(card["transformer"]))
    if "text" in card:
        changes["text"] = TextEncoderConfig(**card["text"])
    if "codec" in card:
        fields = _tuples(card["codec"])
        name = fields.pop("name", entry.codec.name)
        known = entry.codec_named(name)
        kind = VaeConfig if isinstance(known.config, VaeConfig) else TaehvConfig
        ours = Codec(name, kind(**fields), known.checkpoint)
        changes["codecs"] = (ours, *(codec for codec in entry.codecs if codec.name != name))
    if "sampler" in card:
        changes["sampler"] = Sampler(**_tuples(card["sampler"]))
    if "cache" in card:
        changes["cache"] = CachePolicy(**card["cache"])
    if "sizes" in card:
        changes["sizes"] = tuple((int(width), int(height)) for width, height in card["sizes"])
    if "fps" in card:
        changes["fps"] = int(card["fps"])
    if "example_prompts" in card:
        changes["example_prompts"] = tuple(map(str, card["example_prompts"]))
    return replace(entry, **changes)


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave ``usual_steps`` out where it says nothing: readers from before it was there refuse it."""
    return {k: v for k, v in fields.items() if k != "usual_steps" or v is not None}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
