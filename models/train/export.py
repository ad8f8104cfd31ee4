"""Write a finished run as the bundled model: three safetensors files, the tokenizer and a card.

The card carries what a product page needs (example prompts) and what a reader should know (data,
recipe, compute, limits); measured figures are added by the evaluator. Knows nothing of training.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models import registry
from models.card import CARD, card_of
from models.entry import ModelEntry
from models.taehv import Taehv
from models.train.denoiser import Denoiser
from models.train.recipe import Recipe
from models.train.rollout import policy_of
from models.train.run import Run
from models.train.run_folder import TrainingError, save_weights, write_whole
from models.train.stages import OWN_STREAMS

EXAMPLES = (
    "a red balloon rises over a green meadow on a clear day",
    "a white sailboat drifts right on the sea at sunset",
    "a yellow fish circles above the sea at dawn",
    "a blue car drives right through the city in the rain",
    "an orange ball bounces in the desert by day, the camera pans",
    "a purple lantern floats still over the snow at night",
    "a pink bird flies left over a foggy meadow at dawn",
    "a green cube stands in the city at night while snow falls",
)


def export(run: Run, student: str, out: Path, notes: dict[str, Any]) -> None:
    """Write the model of ``run`` to ``out`` in bfloat16.

    Args:
        run: A run whose autoencoder and ``student`` stages are finished; the codec is that of stage
            ``decoder`` where it has run.
        student: The stage whose network is taken.
        out: Folder of the model.
        notes: Further fields of the card: data, compute, measured figures, limits.

    Raises:
        TrainingError: a stage is missing, or a file could not be written.
    """
    device = torch.device("cpu")
    local = Run(run.folder, run.recipe, device, run.clock)
    codec = Taehv(run.recipe.codec)
    local.load(codec, "autoencoder")
    if run.finished("decoder").exists():
        _take_decoder(local, codec)
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
    card = card_of(entry_of(run.recipe, student)) | notes
    text = json.dumps(card, indent=1) + "\n"
    write_whole(out / CARD, lambda path: path.write_text(text, encoding="utf-8"))


def _take_decoder(run: Run, codec: Taehv) -> None:
    """Put the decoder of stage ``decoder`` into the codec of ``autoencoder``.

    Raises:
        TrainingError: it was trained for the latents of another encoder.
    """
    trained = Taehv(run.recipe.codec)
    run.load(trained, "decoder")
    mine = codec.encoder.state_dict()
    if any(not torch.equal(w, mine[name]) for name, w in trained.encoder.state_dict().items()):
        raise TrainingError(
            f"{run.finished('decoder')} is for another encoder than {run.finished('autoencoder')}; "
            f"move {run.finished('decoder').parent} away, and run stage decoder again if you want it"
        )
    codec.decoder.load_state_dict(trained.decoder.state_dict())


def entry_of(recipe: Recipe, student: str) -> ModelEntry:
    """The registry's bundled model with what stage ``student`` of this recipe made of it."""
    bundled = registry.LONGTAKE_TINY
    samplers = {"distil": recipe.sampler, OWN_STREAMS: recipe.unrolled}
    return replace(
        bundled,
        transformer=recipe.transformer,
        text=recipe.text,
        codecs=(replace(bundled.codec, config=recipe.codec),),
        sampler=samplers.get(student, recipe.undistilled),
        cache=policy_of(recipe),
        sizes=((recipe.width, recipe.height),),
        fps=recipe.fps,
        example_prompts=EXAMPLES,
    )
