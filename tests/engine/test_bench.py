"""``python -m engine bench`` measures what it says and says what it measured."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.bench import main, shrunk
from engine.benchmark import Case, run_case
from engine.flops import attended_frames, chunk_flops, chunk_passes, matmul_rate, pass_flops
from kernels.torch_backend import TorchKernels
from models.loading import BUNDLED
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
    entry = shrunk(find("longlive-1.3b"))
    one = pass_flops(entry.transformer, 180, 720)
    assert chunk_flops(entry, (160, 96), 4, 12) == pytest.approx(5 * one)


def test_pages_that_are_left_out_are_not_counted() -> None:
    assert attended_frames(12, 3, 3, None) == 12
    assert attended_frames(12, 3, 3, 2) == 8
    assert attended_frames(12, 3, 3, 50) == 12


def test_a_rate_is_that_of_the_fastest_of_several_on_a_cpu() -> None:
    # The clock of a machine on which every product but the second is slowed down tenfold.
    seconds = iter([0.0, 0.1, 10.0, 10.01, 20.0, 20.1, 30.0, 30.1, 40.0, 40.1, 50.0, 50.1])
    rate = matmul_rate(torch.device("cpu"), torch.float32, lambda: next(seconds))
    assert rate == pytest.approx(2 * 640**3 / 0.01)


def test_a_guided_step_is_two_passes() -> None:
    entry = shrunk(find("longlive-1.3b"))
    guided = replace(entry, sampler=replace(entry.sampler, guidance=2.5))
    assert chunk_passes(entry.sampler, 4) == 5
    assert chunk_passes(guided.sampler, 4) == 9
    plain, twice = (chunk_flops(one, (160, 96), 4, 12) for one in (entry, guided))
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


SMALL = "--shrink --size 48x32 --window 3 --sink 0 --chunks 1 --batch 1 --dtype float32"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--decoder tahev", "--decoder tahev; longtake-tiny has none, taehv"),
        ("--mode fast", "--mode fast; eager, captured, or both"),
        ("--mode captured", "--mode captured on cpu; captured needs a CUDA device"),
        ("--batch 0", "--batch 0; whole numbers of at least 1"),
        ("--batch one", "--batch one; whole numbers of at least 1"),
        ("--chunks 0", "--chunks 0; whole numbers of at least 1"),
        ("--steps 0", "--steps 0; longtake-tiny takes 1 to 4"),
        ("--steps 9", "--steps 9; longtake-tiny takes 1 to 4"),
        ("--size 160", "--size 160; say WIDTHxHEIGHT"),
        ("--size 100x100", "size 100x100; width must be a multiple of"),
        ("--device banana", "--device banana; use auto, cpu, cuda"),
        ("--model nothing", "model 'nothing'; known are"),
    ],
)
def test_a_flag_that_cannot_be_is_one_sentence(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in words else ["--device", "cpu"]
    assert main([*SMALL.split(), *device, *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert not printed.out


def test_a_models_folder_is_benched_like_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(BUNDLED / "longtake-tiny", folder)
    words = f"--model {folder} --chunks 1 --batch 1 --decoder none --steps 1 --dtype float32 --json"
    assert main([*words.split(), "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (report["model"], report["weights"]) == ("longtake-tiny", "trained")
    assert report["matmul_bf16_tflops"] > 0
    assert report["rows"][0]["share_of_matmul_rate"] > 0


def test_the_size_that_is_measured_is_the_size_that_a_policy_is_kept_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "--shrink --model longlive-1.3b --size 48x32 --policy window=9,keep-pages=2 --steps 1"
    words += " --chunks 1 --batch 1 --decoder none --device cpu --dtype float32 --json"
    assert main(words.split()) == 0
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"][0]
    assert (row["size"], row["keep_pages"], row["captured"]) == ("48x32", 2, False)


def test_what_is_captured_is_what_the_generator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(shrunk(find("longtake-tiny")), sizes=((48, 32),))
    model = random_model(entry)
    case = Case("", (48, 32), 3, 0, 1, chunks=1)
    rows = [run_case(model, case, TorchKernels(), time.perf_counter, None)]
    monkeypatch.setattr("engine.generator.Generator.graphs", property(lambda self: 3))
    rows.append(run_case(model, case, TorchKernels(), time.perf_counter, None))
    assert [row["captured"] for row in rows] == [False, True]


def test_a_model_that_was_not_fetched_names_the_folder_looked_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--model longlive-1.3b --cache-dir {tmp_path} --device cpu --dtype float32"
    assert main(words.split()) == 2
    assert "fetch" in capsys.readouterr().err


def test_no_fewer_chunks_are_timed_than_asked_for_when_whole_clips_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "--shrink --size 48x32 --window 6 --sink 0 --steps 1 --chunks 3 --batch 1 --growing"
    assert main([*words.split(), "--dtype", "float32", "--decoder", "none", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"][0]
    assert row["chunks"] == 4  # two clips of two


def test_memory_that_ends_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has")

    monkeypatch.setattr("engine.bench.random_model", full)
    assert main([*SMALL.split(), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert (
        "longtake-tiny does not fit on cpu: CUDA out of memory Tried to allocate 8.00 GiB" in said
    )
    assert "choose a smaller --batch" in said
