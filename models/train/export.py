"""Write a finished run as the bundled model: three safetensors files, the tokenizer and a card.

The card carries what a product page needs (example prompts) and what a reader should know (data,
recipe, compute, limits); measured figures are added by the evaluator. Knows nothing of training.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from models.taehv import Taehv
from models.train.denoiser import Denoiser
from models.train.run_folder import TrainingError, save_weights, write_whole
from models.train.stages import Run


def export(run: Run, student: str, out: Path) -> None:
    """Write the model of ``run`` to ``out`` in bfloat16.

    Args:
        run: A run whose autoencoder and ``student`` stages are finished.
        student: The stage whose network is taken.
        out: Folder of the model.

    Raises:
        TrainingError: a stage is missing, or a file could not be written.
    """
    device = torch.device("cpu")
    local = Run(run.folder, run.recipe, device, run.clock)
    codec = Taehv(run.recipe.codec)
    local.load(codec, "autoencoder")
    denoiser = Denoiser(run.recipe, device)
    local.load(denoiser, student)
    save_weights(out / "transformer.safetensors", denoiser.transformer.state_dict(), torch.bfloat16)
    save_weights(out / "text.safetensors", denoiser.text.state_dict(), torch.bfloat16)
    save_weights(out / "codec.safetensors", codec.state_dict(), torch.bfloat16)
    if not run.tokenizer_file.exists():
        raise TrainingError(
            f"{run.tokenizer_file} is missing; "
            f"run `python -m models.train tokenizer --run {run.folder}` first"
        )
    write_whole(out / "tokenizer.model", lambda path: shutil.copyfile(run.tokenizer_file, path))
    recipe = {key: value for key, value in asdict(run.recipe).items() if key != "extra"}
    text = json.dumps({"student": student, "recipe": recipe}, indent=1) + "\n"
    write_whole(out / "recipe.json", lambda path: path.write_text(text, encoding="utf-8"))
