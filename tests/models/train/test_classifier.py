"""The judge: labelled excerpts, wear, resumable training, verdicts over clips."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.train.classifier import (
    AttributeClassifier,
    classify,
    draw_excerpts,
    load_classifier,
    train_classifier,
    wear,
)
from models.train.run_folder import Stage, StageLimits, TrainingError, save_weights
from models.train.world_scene import ATTRIBUTES, NAMES

CPU = torch.device("cpu")


def stage(folder, steps, kind=Stage):
    seconds = itertools.count()
    limits = StageLimits(steps, save_every_s=0.5)
    return kind(folder, "classifier", limits, lambda: float(next(seconds)), quiet=True)


def test_excerpts_are_the_same_for_the_same_seed_and_carry_their_labels():
    pixels, labels = draw_excerpts((1, 2), 8, CPU)
    again, _ = draw_excerpts((1, 2), 8, CPU)
    other, _ = draw_excerpts((1, 3), 8, CPU)
    assert pixels.shape == (8, 8, 3, 48, 80)
    assert torch.equal(pixels, again)
    assert not torch.equal(pixels, other)
    assert set(labels) == set(NAMES)
    assert all(labels[name].max() < len(ATTRIBUTES[name]) for name in NAMES)


def test_wear_changes_pictures_but_leaves_them_recognisable():
    pixels, _ = draw_excerpts((1, 2), 8, CPU)
    worn = wear(pixels, torch.Generator().manual_seed(3))
    assert worn.shape == pixels.shape
    assert worn.abs().max() <= 1
    gap = (worn - pixels).abs().mean(dim=(1, 2, 3, 4))
    assert gap.max() > 0.02
    assert gap.max() < 0.25


class KilledAtTheSecondStep(Stage):
    def report(self, **values):
        if self.step == 1:
            raise KeyboardInterrupt
        super().report(**values)


def test_training_that_was_killed_resumes_to_the_same_weights(tmp_path):
    options = {"batch": 2, "report_every": 1, "judged": 4, "peak": 1e-3, "block": 1}
    result = train_classifier(stage(tmp_path / "a", 2), tmp_path / "a.safetensors", CPU, **options)
    killed = stage(tmp_path / "b", 2, KilledAtTheSecondStep)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(killed, tmp_path / "b.safetensors", CPU, **options)
    assert not (tmp_path / "b.safetensors").exists()
    train_classifier(stage(tmp_path / "b", 2), tmp_path / "b.safetensors", CPU, **options)
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
    assert set(result) == {*NAMES, "mean"}


def test_the_file_is_small_and_loads(tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_weights(path, AttributeClassifier().state_dict(), torch.float16)
    assert path.stat().st_size <= 3e6
    assert not load_classifier(path).training


def test_missing_or_foreign_weights_end_in_one_sentence(tmp_path):
    with pytest.raises(TrainingError, match="no classifier at"):
        load_classifier(tmp_path / "none.safetensors")
    save_weights(tmp_path / "other.safetensors", {"x": torch.zeros(2)}, torch.float16)
    with pytest.raises(TrainingError, match="does not fit"):
        load_classifier(tmp_path / "other.safetensors")


def test_a_longer_clip_gets_the_average_of_its_excerpts():
    torch.manual_seed(0)
    model = AttributeClassifier().eval()
    clip = torch.rand(1, 64, 3, 96, 160) * 2 - 1
    whole = classify(model, clip)
    halves = [classify(model, clip[:, :32]), classify(model, clip[:, 32:])]
    mean = np.mean([half.probability["time"] for half in halves], axis=0)
    assert np.allclose(whole.probability["time"], mean, atol=1e-5)
    assert whole.values("time")[0] in ATTRIBUTES["time"]
    with pytest.raises(ValueError, match="needs 32"):
        classify(model, clip[:, :31])


def test_clips_of_another_size_are_scaled():
    model = AttributeClassifier().eval()
    assert classify(model, torch.zeros(1, 32, 3, 48, 80)).features.shape == (1, 256)
