"""The bundled model's kind at widths that load and run in milliseconds, as a folder on disk."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import save_file

from models.card import CARD, card_of
from models.registry import LONGTAKE_TINY
from tests.models import formats


def write_small_model(folder: Path) -> Path:
    """Write drawn weights in the project's layout; serve it with ``--model FOLDER``."""
    shrunk = formats.shrunk("wan2.1-1.3b-self-forcing")
    entry = dataclasses.replace(
        LONGTAKE_TINY,
        transformer=shrunk.transformer,
        text=shrunk.text,
        codecs=(dataclasses.replace(LONGTAKE_TINY.codec, config=formats.SMALL_TAEHV),),
    )
    folder.mkdir(parents=True)
    save_file(formats.transformer_weights(41), folder / "transformer.safetensors")
    save_file(formats.taehv_weights(42), folder / "codec.safetensors")
    save_file(formats.text_weights(43), folder / "text.safetensors")
    (folder / "tokenizer.model").write_bytes(formats.train_tokenizer(formats.CORPUS, 400))
    (folder / CARD).write_text(json.dumps(card_of(entry)))
    return folder
