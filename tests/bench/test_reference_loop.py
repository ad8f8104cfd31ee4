"""The plain loop and the engine are two ways to make the same frames."""

from dataclasses import replace

import pytest
import torch

from engine.bench import shrunk
from engine.work_policy import WorkPolicy
from kernels.fp8 import Fp8Linear
from models.config import TransformerConfig
from models.interface import LoadedModel
from models.policy import CachePolicy, RopeMode
from models.random_model import random_model
from models.registry import find
from models.sampler import Sampler
from tests.bench.reference_loop import compare, main


def small(rope: RopeMode = "window", sampler: Sampler | None = None) -> LoadedModel:
    entry = replace(
        shrunk(find("longtake-tiny")),
        transformer=TransformerConfig(
            dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=64, text_len=32
        ),
        cache=CachePolicy(window_frames=6, sink_frames=1, chunk_frames=2, rope=rope),
        sizes=((48, 32),),
        sampler=sampler or Sampler(),
    )
    return random_model(entry, dtype=torch.float32)


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize(("streams", "batch"), [(1, 1), (2, 2)])
def test_both_sides_show_the_same_frames(
    rope: RopeMode, streams: int, batch: int, guided: bool
) -> None:
    model = small(rope, Sampler(fresh_noise=False, guidance=2.5) if guided else None)
    result = compare(model, streams, runs=2, batch=batch, steps=2)
    assert result["largest_pixel_difference"] <= 1
    assert result["runs"] == 2
    assert 0 < result["share_of_tick_in_network_and_decoder"] <= 1


@pytest.mark.parametrize(
    "policy", ["merge-clean-pass", "window=5,merge-clean-pass", "steps=1,window=5", "linear=fp8"]
)
def test_a_policy_is_the_engine_s_alone(policy: str) -> None:
    less = WorkPolicy.parse(policy)
    model = small()
    result = compare(model, 1, runs=2, batch=1, steps=2, less=less)
    assert result["policy"] == policy
    assert result["plain_window_frames"] == 6
    assert result["window_frames"] == (less.window or 6)
    assert (result["steps"], result["plain_steps"]) == (less.steps or 2, 2)
    assert result["largest_pixel_difference"] <= 1 or less.changes_picture
    # The plain loop's network is as it was.
    assert not any(isinstance(module, Fp8Linear) for module in model.transformer.modules())


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (("--window", "4"), "it must hold both, so at least 6"),
        (("--policy", "steps=5"), "5 steps; this model takes 4"),
    ],
)
def test_a_policy_that_cannot_be_is_one_sentence(
    policy: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--random-weights", "--dtype", "float32", *policy]
    assert main(words) == 2
    assert said in capsys.readouterr().err
