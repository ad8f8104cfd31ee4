import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.train.__main__ import main
from models.train.adopt import adopt
from models.train.classifier import CLASSIFIER_FILE
from models.train.recipes import first_light, smoke
from models.train.run import Run
from models.train.run_folder import TrainingError

BUNDLED = Path(__file__).resolve().parents[3] / "models" / "weights" / "longtake-tiny"
CPU = torch.device("cpu")


def test_an_adopted_model_is_exported_as_it_was(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    words = ["--recipe", "first-light", "--run", str(run), "--device", "cpu", "--quiet"]
    words += ["--model", str(BUNDLED), "--student", "teacher", "--out", str(out)]
    assert main(["adopt", "export", *words]) == 0
    for name in ("transformer", "text", "codec"):
        here, there = (load_file(x / f"{name}.safetensors") for x in (BUNDLED, out))
        assert here.keys() == there.keys()
        assert all(torch.equal(weight, there[key]) for key, weight in here.items())
    judge = run / "classifier" / "finished.safetensors"
    assert judge.read_bytes() == CLASSIFIER_FILE.read_bytes()


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, smoke(), CPU, time.monotonic)
    with pytest.raises(TrainingError, match="use the recipe that its card names"):
        adopt(run, BUNDLED)
    assert not run.finished("teacher").exists()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", first_light(), CPU, time.monotonic)
    with pytest.raises(TrainingError, match="name a folder that export wrote"):
        adopt(run, tmp_path)
