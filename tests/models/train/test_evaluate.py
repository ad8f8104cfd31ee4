"""The evaluator's command line and the engine it drives."""

import json
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from engine.requests import read_requests
from models.train import evaluate, evaluate_clips
from models.train.classifier import AttributeClassifier
from models.train.evaluate_clips import Clip, parse_seeds, request, with_seeds
from models.train.evaluate_parts import _rendered_switch
from models.train.evaluate_sheet import Row, evenly, write_sheet
from models.train.prompts import load_prompts
from models.train.run_folder import TrainingError, save_weights


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "classifier.safetensors"
    save_weights(path, AttributeClassifier().state_dict(), torch.float16)
    return path


def test_the_engine_reads_every_request_as_meant(tmp_path):
    prompts = load_prompts()
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(request(p, 2)) + "\n" for p in prompts))
    for prompt, read in zip(prompts, read_requests(path, 1.0), strict=True):
        assert (read.name, read.prompt, read.seed) == (prompt.id, prompt.prompt, prompt.seed)
        assert (read.seconds, read.steps, read.size) == (prompt.seconds, 2, None)
        change = prompt.change
        assert read.switches == (() if change is None else ((change.t, change.prompt),))


def test_seeds_can_be_chosen_and_a_wrong_range_is_explained():
    prompts = with_seeds(load_prompts()[:5], *parse_seeds("70:73"))
    assert [prompt.seed for prompt in prompts] == [70, 71, 72, 70, 71]
    for text in ("5", "5:5", "7:3", "a:b", "-1:4"):
        with pytest.raises(ValueError, match="it is A:B"):
            parse_seeds(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classifier", "nowhere.safetensors"], "no classifier at nowhere.safetensors"),
        (["--parts", "clips,magic"], "--parts has ['magic']"),
        (["--steps", "4,0"], "--steps '4,0'"),
        (["--prompts", "nowhere.jsonl"], "no prompt file at nowhere.jsonl"),
        (["--seeds", "9:3"], "--seeds '9:3'"),
        (["--policy", "window=9,steps=2"], "the evaluator judges the numbers of --steps"),
    ],
)
def test_a_wrong_option_ends_in_one_sentence(options, said, capsys):
    assert evaluate.main([*options, "--quiet", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_rendered_switch_has_the_clips_length_and_changes(tmp_path):
    prompt = next(p for p in load_prompts() if p.kind == "switch" and "time" in p.change.changed)
    clip = Clip(prompt, np.zeros((64, 96, 160, 3), np.uint8), 21)
    frames = _rendered_switch(clip)
    assert frames.shape == (64, 96, 160, 3)
    step = np.abs(frames[1:].astype(int) - frames[:-1]).mean((1, 2, 3))
    assert step[20:33].mean() > 1.3 * step[:20].mean()


def test_a_sheet_shows_rows_of_frames(tmp_path):
    frames = np.zeros((10, 8, 16, 3), np.uint8)
    frames[9] = 255
    picked = evenly(frames, 3)
    write_sheet([Row("eins, zwei, fünf", picked)] * 2, tmp_path / "a" / "sheet.png")
    with Image.open(tmp_path / "a" / "sheet.png") as sheet:
        assert sheet.width == 3 * 19 + 3
        assert sheet.getpixel((sheet.width - 8, 20)) == (255, 255, 255)


def test_the_engine_is_told_the_policy(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "error: enough")

    monkeypatch.setattr(evaluate_clips.subprocess, "run", run)
    source = evaluate_clips.Source("m", policy="window=9,merge-clean-pass")
    with pytest.raises(TrainingError, match="enough"):
        list(evaluate_clips.generate(load_prompts()[:1], source, tmp_path))
    assert commands[0][commands[0].index("--policy") + 1] == "window=9,merge-clean-pass"


@pytest.mark.slow
def test_the_whole_way_through_the_engine_ends_in_one_line_of_json(
    judge, tmp_path, capsys, monkeypatch
):
    small = evaluate.Suite(clips=2, switches=1, streams=0, stream_s=1.0, judged=4, coded=1)
    monkeypatch.setitem(evaluate.SUITES, "quick", small)
    options = ["--random-weights", "--classifier", str(judge), "--steps", "1", "--quiet", "--json"]
    status = evaluate.main([*options, "--out", str(tmp_path / "out"), "--dtype", "float32"])
    out, err = capsys.readouterr()
    assert status == 0, err
    lines = out.strip().splitlines()
    assert lines[0].startswith("classifier on unseen renders")
    result = json.loads(lines[-1])
    assert result["adherence"]["1"]["mean"]["n"] == 2
    assert result["switch"]["kept"]["n"] >= 5
    assert result["flicker"]["ratio"]["value"] > 0
    assert (tmp_path / "out" / "clips-1.png").exists()
    assert not list((tmp_path / "out" / "frames").glob("*.npz"))


@pytest.mark.slow
def test_a_model_that_is_not_there_ends_in_one_sentence(judge, tmp_path, capsys, monkeypatch):
    small = evaluate.Suite(clips=1, switches=0, streams=0, stream_s=1.0, judged=4, coded=1)
    monkeypatch.setitem(evaluate.SUITES, "quick", small)
    options = ["--model", "no-such-model", "--classifier", str(judge), "--quiet"]
    assert evaluate.main([*options, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the engine could not make clips with 'no-such-model'")
