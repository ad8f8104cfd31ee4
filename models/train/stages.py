"""The order of a training run: what each stage needs, makes and leaves in the run folder.

Every stage reads what earlier ones finished and writes one ``finished.safetensors``; so a run can be
stopped anywhere, started again, or continued on another machine with the folder copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.taehv import Taehv
from models.text_encoder import UMT5
from models.tokenizer import SentencePieceTokenizer
from models.train.autoencoder import to_channels_last, train_autoencoder
from models.train.captions import train_tokenizer
from models.train.codec_start import linear_encoder, start_from_components
from models.train.denoiser import Denoiser
from models.train.distil import train_distil
from models.train.footage import Footage
from models.train.initialise import train_initialise
from models.train.recipe import Recipe
from models.train.run_folder import Clock, Stage, StageLimits, TrainingError, save_weights
from models.train.streams import StreamBatch, StreamStore
from models.train.teacher import train_teacher
from models.train.text_start import train_text
from models.train.unroll import train_unroll
from models.train.windows import OpeningStore, WindowStore

OWN_STREAMS = "unroll"
"""The stage for recipes with one view, where it takes the place of ``initialise`` and ``distil``."""

ORDER = ("tokenizer", "autoencoder", "text", "teacher", "initialise", "distil")


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


def run_tokenizer(run: Run) -> None:
    """Train the sentencepiece model on the captions."""
    train_tokenizer(run.tokenizer_file, run.recipe.vocabulary, run.recipe.seed)


def run_autoencoder(run: Run) -> None:
    """Train the autoencoder on renders, from finished weights if the run folder has them."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    codec = Taehv(recipe.codec)
    footage = Footage(recipe, run.device, recipe.seed + 101)
    encode = None
    if run.finished("autoencoder").exists():
        run.load(codec, "autoencoder")
    elif recipe.autoencoder.start_clips:
        # Sixteen frames: both halvings of time fit without the lone first frame of a stream.
        clips = footage.clips(recipe.autoencoder.start_clips, 16)
        start_from_components(codec, (clips.cpu() + 1.0) / 2.0, recipe.autoencoder.kept)
    if recipe.autoencoder.start_clips and not recipe.autoencoder.train_encoder:
        encode = linear_encoder(codec.to(run.device))
    finished = train_autoencoder(
        run.stage("autoencoder", recipe.autoencoder.limits),
        recipe.autoencoder,
        codec,
        lambda: footage.clips(
            recipe.autoencoder.batch, recipe.autoencoder.frames, recipe.autoencoder.crop
        ),
        run.device,
        encode=encode,
        bfloat16=recipe.bfloat16,
        compiled=run.compiled,
    )
    save_weights(run.finished("autoencoder"), finished.state_dict(), torch.float32)


def run_text(run: Run) -> None:
    """Let the text encoder learn what captions say."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed + 3)
    network = UMT5(recipe.text)
    network.init_weights()
    finished = train_text(
        run.stage("text", recipe.text_start.limits),
        recipe,
        network,
        _tokenizer(run),
        run.device,
    )
    save_weights(run.finished("text"), finished.state_dict(), torch.float32)


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
    tokenizer = _tokenizer(run)
    codec = Taehv(run.recipe.codec)
    run.load(codec, "autoencoder")
    return Encoding(_encoder(run, codec), tokenizer)


def _tokenizer(run: Run) -> SentencePieceTokenizer:
    if not run.tokenizer_file.exists():
        raise TrainingError(
            f"{run.tokenizer_file} is missing; "
            f"run `python -m models.train tokenizer --run {run.folder}` first"
        )
    return SentencePieceTokenizer.from_file(run.tokenizer_file)


def opening_store(run: Run) -> OpeningStore | None:
    """A store of first chunks, for a recipe whose teacher learns from them."""
    recipe = run.recipe
    if not recipe.teacher.opening_share:
        return None
    made = encoding(run)
    footage = Footage(recipe, run.device, recipe.seed + 303)
    store = OpeningStore(
        recipe.data.held,
        lambda: footage.openings(recipe.data.at_once, made.encode, made.tokenizer),
    )
    for _ in range(8):
        store.refresh()
    return store


def window_store(run: Run) -> WindowStore:
    """Fill a store of window items: renders, encoded by the finished autoencoder."""
    recipe = run.recipe
    made = encoding(run)
    footage = Footage(recipe, run.device, recipe.seed + 202)
    store = WindowStore(
        recipe.data.held,
        lambda: footage.items(recipe.data.at_once, made.encode, made.tokenizer),
    )
    store.fill(recipe.data.first, quiet=run.quiet)
    return store


def stream_store(run: Run, step: int) -> StreamStore:
    """Start a store of whole streams, other ones at every ``step``: renders, encoded."""
    recipe, part = run.recipe, run.recipe.unroll
    made = encoding(run)
    footage = Footage(recipe, run.device, recipe.seed + 505 + step)
    draw = torch.Generator().manual_seed(recipe.seed + 405 + step)

    def share(odds: float) -> bool:
        return torch.rand((), generator=draw).item() < odds

    def group() -> StreamBatch:
        chunks = part.chunks * (2 if share(part.late_share) else 1)
        place = int(torch.randint(1, chunks, (), generator=draw))
        switch = place if share(part.switch_share) else None
        return footage.streams(part.at_once, chunks, switch, made.encode, made.tokenizer)

    groups = part.held // part.at_once
    store = StreamStore(groups, group)
    for _ in range(min(10, groups)):
        store.refresh()
    return store


def _encoder(run: Run, codec: Taehv) -> Callable[[Tensor], Tensor]:
    """How clips become latents: the encoder, or its shorter equal if it was never trained."""
    if run.recipe.autoencoder.start_clips and not run.recipe.autoencoder.train_encoder:
        return linear_encoder(codec.to(run.device))
    to_channels_last(codec.to(torch.bfloat16), run.device)
    return lambda pixels: codec.encode(pixels)[0].float()


def run_teacher(run: Run, store: WindowStore) -> None:
    """Train the many-step teacher."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed + 1)
    denoiser = Denoiser(recipe, run.device)
    run.load(denoiser.text, "text")
    nn.init.zeros_(denoiser.transformer.head.head.weight)

    openings = opening_store(run)

    def renew(step: int) -> None:
        if openings is not None and step % 6 == 0:
            openings.refresh()
        if recipe.data.refresh_every and step % recipe.data.refresh_every == 0:
            store.refresh()

    finished = train_teacher(
        run.stage("teacher", recipe.teacher.limits),
        recipe,
        denoiser,
        store,
        run.device,
        openings=openings,
        compiled=run.compiled,
        on_tick=renew,
    )
    save_weights(run.finished("teacher"), finished.state_dict(), torch.float32)


def _network(run: Run, stage: str) -> Denoiser:
    """Build the network that ``stage`` finished."""
    network = Denoiser(run.recipe, run.device)
    run.load(network, stage)
    return network


def run_unroll(run: Run) -> None:
    """Let the teacher learn from its own streams.

    Raises:
        TrainingError: the recipe's prompts leave things open, or the teacher is missing.
    """
    recipe, part = run.recipe, run.recipe.unroll
    if not recipe.data.one_view:
        raise TrainingError(
            f"recipe {recipe.name!r} shows many views of what a prompt describes, and stage "
            f"{OWN_STREAMS} compares with the only one; use --recipe first-light, or the stages "
            "initialise and distil"
        )
    student = _network(run, "teacher")
    finished = train_unroll(
        run.stage(OWN_STREAMS, part.limits),
        recipe,
        student,
        partial(stream_store, run),
        run.device,
    )
    save_weights(run.finished(OWN_STREAMS), finished.state_dict(), torch.float32)


def run_initialise(run: Run, store: WindowStore) -> None:
    """Make the student from the teacher's trajectories."""
    teacher, student = _network(run, "teacher"), _network(run, "teacher")
    finished = train_initialise(
        run.stage("initialise", run.recipe.initialise.limits),
        run.recipe,
        teacher,
        student,
        store,
        run.device,
    )
    save_weights(run.finished("initialise"), finished.state_dict(), torch.float32)


def run_distil(run: Run, store: WindowStore) -> None:
    """Distil the student by self-rollout."""
    teacher, student = _network(run, "teacher"), _network(run, "initialise")
    finished = train_distil(
        run.stage("distil", run.recipe.distil.limits),
        run.recipe,
        teacher,
        student,
        store,
        run.device,
        compiled=run.compiled,
    )
    save_weights(run.finished("distil"), finished.state_dict(), torch.float32)


WITH_STORE: dict[str, Callable[[Run, WindowStore], None]] = {
    "teacher": run_teacher,
    "initialise": run_initialise,
    "distil": run_distil,
}
"""Stages that train on windows, and so share one store when they run one after the other."""


def run_stages(run: Run, names: tuple[str, ...]) -> None:
    """Run the named stages in order."""
    store: WindowStore | None = None
    for name in names:
        if name == "tokenizer":
            run_tokenizer(run)
        elif name == "autoencoder":
            run_autoencoder(run)
        elif name == "text":
            run_text(run)
        elif name == OWN_STREAMS:
            run_unroll(run)
        else:
            store = store or window_store(run)
            WITH_STORE[name](run, store)
