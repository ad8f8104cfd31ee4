"""The order of a training run: what each stage needs, makes and leaves in the run folder.

Every stage reads what earlier ones finished and writes one ``finished.safetensors``; so a run can be
stopped anywhere, started again, or continued on another machine with the folder copied.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from models.taehv import Taehv
from models.text_encoder import UMT5
from models.train.autoencoder import train_autoencoder
from models.train.captions import train_tokenizer
from models.train.codec_start import linear_encoder, start_from_components
from models.train.decoder import train_decoder
from models.train.denoiser import Denoiser
from models.train.distil import train_distil
from models.train.footage import Footage
from models.train.initialise import train_initialise
from models.train.recipe import Recipe
from models.train.run import Run, encoding, finished_network, trained_tokenizer
from models.train.run_folder import TrainingError, save_weights
from models.train.stores import opening_store, start_filming, stream_store, window_store
from models.train.teacher import train_teacher
from models.train.text_start import train_text
from models.train.unroll import train_unroll
from models.train.windows import WindowStore

OWN_STREAMS = "unroll"
"""The stage for recipes with one view, where it takes the place of ``initialise`` and ``distil``."""

ORDER = ("tokenizer", "autoencoder", "text", "teacher", "initialise", "distil")


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
        trained_tokenizer(run),
        run.device,
    )
    save_weights(run.finished("text"), finished.state_dict(), torch.float32)


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


def _want_one_view(recipe: Recipe, stage: str, advice: str) -> None:
    if not recipe.data.one_view:
        raise TrainingError(
            f"recipe {recipe.name!r} shows many views of what a prompt describes, and stage "
            f"{stage} compares with the only one; use --recipe first-light, or {advice}"
        )


def run_unroll(run: Run) -> None:
    """Let the teacher learn from its own streams.

    Raises:
        TrainingError: the recipe's prompts leave things open, or the teacher is missing.
    """
    recipe, part = run.recipe, run.recipe.unroll
    _want_one_view(recipe, OWN_STREAMS, "the stages initialise and distil")
    student = finished_network(run, "teacher")
    finished = train_unroll(
        run.stage(OWN_STREAMS, part.limits),
        recipe,
        student,
        partial(stream_store, run),
        run.device,
    )
    save_weights(run.finished(OWN_STREAMS), finished.state_dict(), torch.float32)


def run_decoder(run: Run) -> None:
    """Let the decoder learn from the streams of the network that ``unroll`` finished.

    Raises:
        TrainingError: the recipe's prompts leave things open, or a network or codec is missing.
    """
    recipe, part = run.recipe, run.recipe.decoder
    _want_one_view(recipe, "decoder", "the decoder of stage autoencoder as it is")
    network = finished_network(run, OWN_STREAMS).requires_grad_(False)
    codec = Taehv(recipe.codec)
    run.load(codec, "autoencoder")
    film = partial(start_filming, run, network, encoding(run))
    stage = run.stage("decoder", part.limits)
    finished = train_decoder(stage, part, codec, film, run.device, recipe.seed + 59)
    save_weights(run.finished("decoder"), finished.state_dict(), torch.float32)


def run_initialise(run: Run, store: WindowStore) -> None:
    """Make the student from the teacher's trajectories."""
    teacher, student = finished_network(run, "teacher"), finished_network(run, "teacher")
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
    teacher, student = finished_network(run, "teacher"), finished_network(run, "initialise")
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


ALONE: dict[str, Callable[[Run], None]] = {
    "tokenizer": run_tokenizer,
    "autoencoder": run_autoencoder,
    "text": run_text,
    OWN_STREAMS: run_unroll,
    "decoder": run_decoder,
}
"""Stages that make what they learn from themselves."""

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
        if name in ALONE:
            ALONE[name](run)
        else:
            store = store or window_store(run)
            WITH_STORE[name](run, store)
