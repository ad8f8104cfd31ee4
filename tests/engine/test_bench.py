"""``python -m engine bench`` measures what it says and says what it measured."""

import json
from dataclasses import replace

import pytest
import torch

from engine.bench import main, shrunk
from engine.benchmark import Case, chunk_flops, chunk_passes, pass_flops
from models.random_model import random_model
from models.registry import WAN_1_3B, WAN_14B, find


@pytest.mark.parametrize(
    ("config", "frames", "tera"),
    [(WAN_1_3B, 3, 16.2), (WAN_1_3B, 12, 28.3), (WAN_1_3B, 21, 40.4), (WAN_14B, 21, 239)],
)
def test_operations_of_a_pass_are_those_of_the_cost_model(
    config: object, frames: int, tera: float
) -> None:
    flops = pass_flops(config, 3 * 1560, frames * 1560)  # type: ignore[arg-type]
    assert flops / 1e12 == pytest.approx(tera, rel=0.005)


def test_a_chunk_is_its_steps_and_the_clean_pass() -> None:
    entry = replace(shrunk(find("longlive-1.3b")))
    model = random_model(entry)
    case = Case("", (160, 96), 12, 3, 4)
    one = pass_flops(entry.transformer, 180, 720)
    assert chunk_flops(model, case, 12) == pytest.approx(5 * one)


def test_a_guided_step_is_two_passes() -> None:
    entry = shrunk(find("longlive-1.3b"))
    guided = replace(entry, sampler=replace(entry.sampler, guidance=2.5))
    assert chunk_passes(entry.sampler, 4) == 5
    assert chunk_passes(guided.sampler, 4) == 9
    case = Case("", (160, 96), 12, 3, 4)
    plain, twice = (chunk_flops(random_model(one), case, 12) for one in (entry, guided))
    assert twice == pytest.approx(9 / 5 * plain)


def test_one_line_of_json_has_a_row_for_every_batch_and_decoder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "--shrink --size 48x32 --window 3 --sink 0 --steps 1 --chunks 2 --batch 1,2"
    assert main([*words.split(), "--dtype", "float32", "--decoder", "none,taehv", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["model"] == "longtake-tiny (shrunk)"
    assert report["weights"] == "random"
    assert [(row["batch"], row["decoder"]) for row in report["rows"]] == [
        (1, "none"), (1, "taehv"), (2, "none"), (2, "taehv"),
    ]  # fmt: skip
    for row in report["rows"]:
        assert row["window_frames"] == 3
        assert row["sink_frames"] == 0
        assert row["window"] == "full"
        assert row["chunks"] == 2
        assert row["frames_per_s"] == pytest.approx(12e3 * row["batch"] / row["chunk_ms"], rel=0.01)
        assert not row["captured"]


def test_a_growing_window_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--shrink --size 48x32 --window 6 --sink 0 --steps 1 --chunks 2 --batch 1 --growing"
    assert main([*words.split(), "--dtype", "float32", "--decoder", "none", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"][0]
    assert row["window"] == "growing from empty"
    assert row["window_frames"] == 6


def test_a_policy_gives_the_steps_unless_they_are_said_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "--shrink --size 48x32 --window 6 --chunks 2 --batch 1 --dtype float32 --decoder none"
    assert main([*words.split(), "--policy", "steps=1", "--json"]) == 2  # a window as a flag
    words = words.replace("--window 6 ", "")
    assert main([*words.split(), "--policy", "steps=1,window=6", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"][0]
    assert (row["steps"], row["passes"]) == (1, 2)
    assert main([*words.split(), "--policy", "steps=1", "--steps", "2"]) == 2
    assert "steps are said once; leave one out" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU could run them")
def test_kernels_that_cannot_run_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shrink", "--kernels", "triton", "--dtype", "float32"]) == 2
    assert "it needs a CUDA device" in capsys.readouterr().err
