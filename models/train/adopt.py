"""Go on from a published model: fill a run folder with what its stages would have left.

The weights become those of stages ``autoencoder``, ``text`` and ``teacher``, so that ``unroll``,
``initialise`` and ``distil`` start from them and need none of the hours before; ``classifier`` starts from
the bundled one. Only weights are taken; the recipe says what the networks are.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.taehv import Taehv
from models.train.classifier import CLASSIFIER_FILE, load_classifier
from models.train.denoiser import Denoiser
from models.train.run import Run
from models.train.run_folder import TrainingError, save_weights, write_whole

FILES = ("transformer.safetensors", "text.safetensors", "codec.safetensors", "tokenizer.model")


def adopt(run: Run, model: Path) -> None:
    """Write the finished stages of ``run`` from the published ``model`` folder.

    Raises:
        TrainingError: a file is missing, or its weights are not those of the recipe's networks.
    """
    missing = [name for name in FILES if not (model / name).is_file()]
    if missing:
        raise TrainingError(
            f"--model {model} has no {', '.join(missing)}; name a folder that export wrote, "
            "such as models/weights/longtake-tiny"
        )
    load_classifier()  # refuses with a sentence before anything is written
    transformer, text, codec = (load_file(model / name) for name in FILES[:3])
    joined = {f"transformer.{name}": weight for name, weight in transformer.items()}
    joined |= {f"text.{name}": weight for name, weight in text.items()}
    try:
        Denoiser(run.recipe, torch.device("cpu")).load_state_dict(joined)
        Taehv(run.recipe.codec).load_state_dict(codec)
    except RuntimeError as error:
        raise TrainingError(
            f"--model {model} does not fit the recipe {run.recipe.name!r} ({error}); "
            "use the recipe that its card names"
        ) from error
    made: dict[str, dict[str, Tensor]] = {"autoencoder": codec, "text": text, "teacher": joined}
    for stage, weights in made.items():
        save_weights(run.finished(stage), weights, torch.float32)
    write_whole(run.finished("classifier"), lambda path: shutil.copyfile(CLASSIFIER_FILE, path))
    write_whole(run.tokenizer_file, lambda path: shutil.copyfile(model / FILES[3], path))
