"""A training run's folder, recipe and device, and what finished stages of it give to later ones.

Knows which files a stage leaves; not the order of stages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.taehv import Taehv
from models.tokenizer import SentencePieceTokenizer
from models.train.autoencoder import to_channels_last
from models.train.codec_start import linear_encoder
from models.train.denoiser import Denoiser
from models.train.recipe import Recipe
from models.train.run_folder import Clock, Stage, StageLimits, TrainingError


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, its recipe and where it computes."""

    folder: Path
    recipe: Recipe
    device: torch.device
    clock: Clock
    compiled: bool = False
    quiet: bool = False

    def stage(self, name: str, limits: StageLimits) -> Stage:
        """Open a stage of this run."""
        return Stage(self.folder, name, limits, self.clock, quiet=self.quiet)

    def finished(self, stage: str) -> Path:
        """Where ``stage`` leaves its weights."""
        return self.folder / stage / "finished.safetensors"

    @property
    def tokenizer_file(self) -> Path:
        """The sentencepiece model."""
        return self.folder / "tokenizer" / "tokenizer.model"

    def load(self, module: nn.Module, stage: str) -> None:
        """Fill ``module`` with what ``stage`` finished.

        Raises:
            TrainingError: the stage has not been run, or its file is of another recipe.
        """
        path = self.finished(stage)
        if not path.exists():
            raise TrainingError(
                f"{path} is missing; this stage starts from the {stage} stage; "
                f"run `python -m models.train {stage} --run {self.folder}` first"
            )
        try:
            module.load_state_dict(load_file(path, device=str(self.device)))
        except Exception as error:
            raise TrainingError(
                f"{path} does not fit the recipe {self.recipe.name!r} ({error}); "
                "use the recipe it was trained with, or another --run folder"
            ) from error


@dataclass(frozen=True, slots=True)
class Encoding:
    """What turns renders into training values: the finished encoder and the tokenizer."""

    encode: Callable[[Tensor], Tensor]
    tokenizer: SentencePieceTokenizer


def encoding(run: Run) -> Encoding:
    """Load what earlier stages made.

    Raises:
        TrainingError: a stage has not been run.
    """
    tokenizer = trained_tokenizer(run)
    codec = Taehv(run.recipe.codec)
    run.load(codec, "autoencoder")
    return Encoding(_encoder(run, codec), tokenizer)


def trained_tokenizer(run: Run) -> SentencePieceTokenizer:
    """Load what stage ``tokenizer`` made.

    Raises:
        TrainingError: it has not been run.
    """
    if not run.tokenizer_file.exists():
        raise TrainingError(
            f"{run.tokenizer_file} is missing; "
            f"run `python -m models.train tokenizer --run {run.folder}` first"
        )
    return SentencePieceTokenizer.from_file(run.tokenizer_file)


def _encoder(run: Run, codec: Taehv) -> Callable[[Tensor], Tensor]:
    """How clips become latents: the encoder, or its shorter equal if it was never trained."""
    if run.recipe.autoencoder.start_clips and not run.recipe.autoencoder.train_encoder:
        return linear_encoder(codec.to(run.device))
    to_channels_last(codec.to(torch.bfloat16), run.device)
    return lambda pixels: codec.encode(pixels)[0].float()


def finished_network(run: Run, stage: str) -> Denoiser:
    """Build the network that ``stage`` finished."""
    network = Denoiser(run.recipe, run.device)
    run.load(network, stage)
    return network
