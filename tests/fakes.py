"""Small stand-ins shared by the suites: real classes at tiny widths, nothing mocked."""

import dataclasses

from models.config import TransformerConfig
from models.entry import Codec, ModelEntry
from models.interface import LoadedModel
from models.random_model import random_model
from models.registry import LONGTAKE_TINY
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig


def tiny_test_entry(**changes: object) -> ModelEntry:
    """The bundled model's entry at widths that run in milliseconds; ``changes`` replace fields."""
    entry = dataclasses.replace(
        LONGTAKE_TINY,
        title="For tests",
        transformer=TransformerConfig(
            dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=24, freq_dim=32
        ),
        text=TextEncoderConfig(
            vocab_size=512,
            dim=32,
            dim_attn=32,
            dim_ffn=48,
            num_heads=2,
            num_layers=1,
            text_len=24,
        ),
        codecs=(Codec("taehv", TaehvConfig((8, 8, 4, 4), encoder_width=4), None),),
        sizes=((64, 32), (32, 64)),
    )
    return dataclasses.replace(entry, **changes)  # type: ignore[arg-type]


def tiny_test_model(seed: int = 0, **changes: object) -> LoadedModel:
    """A random model of ``tiny_test_entry``: latents of 4x8, 8 tokens a frame."""
    return random_model(tiny_test_entry(**changes), seed)
