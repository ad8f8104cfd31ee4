"""What a policy costs in adherence is measured on pairs of clips."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.train.classifier import AttributeClassifier
from models.train.evaluate_clips import Clip, Source
from models.train.evaluate_scores import difference
from models.train.prompts import NAMES, EvalPrompt, load_prompts
from models.train.run_folder import TrainingError, save_weights
from tests.bench.policy_adherence import POLICIES, main, measure

PROMPTS = [prompt for prompt in load_prompts() if prompt.kind == "clip"][:12]
FRAMES = np.zeros((1, 8, 8, 3), np.uint8)


def made(prompts: Sequence[EvalPrompt], source: Source, folder: Path) -> Iterator[Clip]:
    """Clips whose only pixel tells the policy that made them."""
    yield from (Clip(prompt, FRAMES + POLICIES.index(source.policy), None) for prompt in prompts)


def looked(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """The first policy shows all that was asked for; every later one misses one more clip."""
    seen: dict[str, list[str]] = {name: [] for name in NAMES}
    for index, clip in enumerate(clips):
        for name in NAMES:
            right = index >= int(clip.frames[0, 0, 0, 0])
            seen[name].append((clip.prompt.expect[name] or "-") if right else "-")
    return seen


def test_every_policy_is_compared_with_the_first() -> None:
    ticks = itertools.count().__next__
    rows = list(measure(PROMPTS, Source("m"), POLICIES[:3], looked, lambda: float(ticks()), made))
    assert [row["policy"] for row in rows] == list(POLICIES[:3])
    assert rows[0]["adherence"]["value"] == 1
    assert rows[0]["difference"]["value"] == 0
    changes = [row["difference"]["value"] for row in rows[1:]]
    assert changes == pytest.approx([row["adherence"]["value"] - 1 for row in rows[1:]], abs=1e-3)
    assert 0 > changes[0] > changes[1]
    for row in rows[1:]:
        change = row["difference"]
        assert change["low"] <= change["value"] <= change["high"] <= 0
        assert change["n"] == 12


def test_two_runs_that_show_the_same_do_not_differ() -> None:
    seen = looked(list(made(PROMPTS, Source("m", policy="window=9"), Path())))
    figure = difference([prompt.expect for prompt in PROMPTS], seen, seen)
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "classifier.safetensors"
    save_weights(path, AttributeClassifier().state_dict(), torch.float16)
    return path


def run(out: Path, classifier: Path, make: object, *words: str) -> int:
    common = ["--classifier", str(classifier), "--out", str(out), "--clips", "2"]
    return main([*common, *words], make=make)  # type: ignore[arg-type]


def test_a_run_that_fails_keeps_what_it_measured(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(prompts: Sequence[EvalPrompt], source: Source, folder: Path) -> Iterator[Clip]:
        if source.policy != "exact":
            raise TrainingError("the engine refused")
        frames = np.zeros((32, 32, 64, 3), np.uint8)
        return iter([Clip(prompt, frames, None) for prompt in prompts])

    assert run(tmp_path / "out.json", classifier, failing) == 2
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["policy"] for row in report["policies"]] == ["exact"]
    assert report["clips"] == 2
    assert "error: the engine refused" in capsys.readouterr().err


def test_steps_said_twice_are_one_sentence(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", "4", "--policies", "exact;steps=2"]
    assert run(tmp_path / "out.json", classifier, made, *words) == 2
    assert "steps are said once; leave one out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_way_through_the_engine(tmp_path: Path, classifier: Path) -> None:
    from models.train.evaluate_clips import generate

    words = ["--random-weights", "--seconds", "2", "--steps", "1"]
    policies = ["--policies", "exact;window=6,merge-clean-pass"]
    assert run(tmp_path / "out.json", classifier, generate, *words, *policies) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["policy"] for row in report["policies"]] == ["exact", "window=6,merge-clean-pass"]
    assert report["weights"] == "random"
    assert all(row["adherence"]["n"] == 2 for row in report["policies"])
