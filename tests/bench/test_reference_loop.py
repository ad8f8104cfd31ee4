"""The plain loop and the engine are two ways to make the same frames."""

from dataclasses import replace

import pytest
import torch

from engine.bench import shrunk
from models.config import TransformerConfig
from models.policy import CachePolicy, RopeMode
from models.random_model import random_model
from models.registry import find
from tests.bench.reference_loop import compare


@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize(("streams", "batch"), [(1, 1), (2, 2)])
def test_both_sides_show_the_same_frames(rope: RopeMode, streams: int, batch: int) -> None:
    entry = replace(
        shrunk(find("longtake-tiny")),
        transformer=TransformerConfig(
            dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=64, text_len=32
        ),
        cache=CachePolicy(window_frames=6, sink_frames=1, chunk_frames=2, rope=rope),
        sizes=((48, 32),),
    )
    model = random_model(entry, dtype=torch.float32)
    result = compare(model, streams, runs=2, batch=batch, steps=2)
    assert result["largest_pixel_difference"] <= 1
    assert result["runs"] == 2
    assert 0 < result["share_of_tick_in_network_and_decoder"] <= 1
