"""The judge: its file and its verdicts over clips."""

import numpy as np
import pytest
import torch

from models.train.classifier import AttributeClassifier, classify, load_classifier
from models.train.run_folder import TrainingError, save_weights
from models.train.world_scene import ATTRIBUTES


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
