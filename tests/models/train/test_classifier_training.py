"""Training the judge: labelled excerpts, wear, and resuming to the same weights."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from models.train.classifier import CLASSIFIER_FILE, AttributeClassifier
from models.train.classifier_training import (
    draw_excerpts,
    run_classifier,
    train_classifier,
    wear,
)
from models.train.recipe import ClassifierRecipe
from models.train.recipes import smoke
from models.train.run import Run
from models.train.run_folder import Stage, StageLimits
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


def trained(stage, out):
    torch.manual_seed(1)
    recipe = ClassifierRecipe(stage.limits, batch=2, block=1, peak=1e-3)
    return train_classifier(
        stage, recipe, AttributeClassifier(), out, CPU, report_every=1, judged=4
    )


def test_training_that_was_killed_resumes_to_the_same_weights(tmp_path):
    result = trained(stage(tmp_path / "a", 2), tmp_path / "a.safetensors")
    killed = stage(tmp_path / "b", 2, KilledAtTheSecondStep)
    with pytest.raises(KeyboardInterrupt):
        trained(killed, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
    trained(stage(tmp_path / "b", 2), tmp_path / "b.safetensors")
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
    assert set(result) == {*NAMES, "mean"}


def test_a_run_leaves_its_classifier_in_its_folder_and_the_bundled_one_alone(tmp_path, monkeypatch):
    bundled = CLASSIFIER_FILE.read_bytes()
    monkeypatch.setattr(
        "models.train.classifier_training.accuracy", lambda *a, **k: {"time": [True]}
    )
    run = Run(tmp_path, smoke(), CPU, lambda: 0.0, quiet=True)
    run.finished("classifier").parent.mkdir()
    run.finished("classifier").write_bytes(bundled)
    run_classifier(run)
    left, begun = load_file(run.finished("classifier")), load_file(CLASSIFIER_FILE)
    # Two steps from where it began.
    gaps = [(left[name].float() - begun[name].float()).abs().max() for name in left]
    assert 0 < max(gaps) < 0.01
    assert CLASSIFIER_FILE.read_bytes() == bundled
