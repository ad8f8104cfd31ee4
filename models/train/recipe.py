"""The numbers of a training run, in one frozen value; the stages hold none of their own.

``recipes.py`` has those that are known by name.
"""

from dataclasses import dataclass, replace

from models.config import TransformerConfig
from models.sampler import Sampler
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.train.run_folder import StageLimits


@dataclass(frozen=True, slots=True)
class AutoencoderRecipe:
    """Autoencoder stage: batches of clips of ``frames`` (1 + 4k) pixel frames.

    With ``crop`` each clip is cut to a random square of that many pixels: the same number of
    pixels from more scenes, which a convolution learns from as well. With ``start_clips`` the
    codec begins as principal components of that many clips (``codec_start.py``); with
    ``train_encoder`` off the latents stay those, and only the decoder is trained. ``kept`` is how much
    of its own deviation a component's latent keeps, as a power.
    """

    limits: StageLimits
    batch: int
    frames: int = 17
    crop: int | None = None
    start_clips: int = 0
    train_encoder: bool = True
    kept: float = 0.0
    peak: float = 1.5e-3
    latent_noise: float = 0.12


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """How many window items are held and made at a time, and how often a batch is renewed.

    ``first`` are made before training starts, by default all that are held. With ``one_view`` every
    stream opens at world time 0 on the one view that there is of its place, and what a caption leaves
    unsaid is as it always is (``world_scene.UNSAID``), so that a prompt says all there is to see: a
    small network's hours then go into what prompts ask for, not into the lie of hills. With ``lively``
    every scene is drawn twice and the one in which more moves is taken: that is harder to learn.
    """

    held: int
    at_once: int
    refresh_every: int
    first: int | None = None
    switch_share: float = 0.4
    far_s: float = 300.0
    one_view: bool = False
    lively: bool = False


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """The text encoder's start: it learns to tell what a caption says before it sees a picture."""

    limits: StageLimits
    batch: int = 64
    peak: float = 1.5e-3


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """Diffusion forcing: independent noise per chunk, block-causal; and whole windows, bidirectional.

    ``half_weights`` keeps the live weights in bfloat16 with float32 masters, the faster way on a CPU.
    In ``opening_share`` of the steps the network sees only first chunks, ``opening_batch`` of them:
    what a prompt looks like is learned there, for a quarter of a window's tokens. In ``own_share`` of
    the causal steps given chunks are the network's own estimates. In ``served_share``
    of the draws a noise level is one of the sampler's own. The error around the subject counts
    ``1 + subject_weight`` times.
    """

    limits: StageLimits
    batch: int
    peak: float = 1.2e-3
    bidirectional_share: float = 0.35
    clean_share: float = 0.4
    context_jitter: float = 0.03
    prompt_dropout: float = 0.1
    shift: float = 3.0
    decay: float = 0.999
    half_weights: bool = False
    opening_share: float = 0.0
    opening_batch: int = 0
    served_share: float = 0.0
    subject_weight: float = 0.0
    own_share: float = 0.0

    @property
    def causal_only(self) -> bool:
        """Whether the teacher never sees a window as a whole."""
        return self.bidirectional_share == 0


@dataclass(frozen=True, slots=True)
class InitialiseRecipe:
    """Causal initialisation of the student from the teacher's ODE trajectories (CausVid)."""

    limits: StageLimits
    batch: int
    ode_steps: int = 12
    guidance: float = 2.0
    peak: float = 3e-4
    decay: float = 0.99


@dataclass(frozen=True, slots=True)
class DistilRecipe:
    """Self-rollout distillation with distribution matching."""

    limits: StageLimits
    batch: int
    min_chunks: int = 4
    max_chunks: int = 9
    steps_choices: tuple[int, ...] = (4, 4, 2, 2, 1)
    guidance: float = 2.0
    critic_updates: int = 4
    critic_peak: float = 1.5e-4
    peak: float = 6e-5
    decay: float = 0.99
    switch_share: float = 0.4


@dataclass(frozen=True, slots=True)
class UnrollRecipe:
    """Self-rollout against the one clip that a prompt describes, for recipes with one view.

    Streams of ``chunks`` chunks; a share of ``late_share`` are twice as long, and of those only the second
    half is learned. In ``switch_share`` the prompt changes on the way. ``shift`` is the schedule's: low levels
    keep more of the estimate that they go on from. Besides the frames, the change from each to the next is
    compared, at ``change_weight``: an error that stays is a lesser one than an error that flickers. ``held``
    streams are kept, ``at_once`` are made every ``refresh_every`` steps.
    """

    limits: StageLimits
    batch: int
    chunks: int = 8
    held: int = 360
    at_once: int = 12
    refresh_every: int = 2
    switch_share: float = 0.3
    late_share: float = 0.25
    change_weight: float = 0.5
    steps_choices: tuple[int, ...] = (4, 2, 2, 1)
    shift: float = 0.6
    subject_weight: float = 3.0
    peak: float = 1.2e-3
    decay: float = 0.995


@dataclass(frozen=True, slots=True)
class ClassifierRecipe:
    """What the evaluator sees with: batches of excerpts, each render worn and dealt ``reuse`` times.

    ``block`` batches are rendered at a time. The subject, hardest to tell, counts ``subject_weight`` times.
    ``seed`` is that of the renders: one that goes on from finished weights takes another.
    """

    limits: StageLimits
    seed: int = 1
    batch: int = 128
    block: int = 8
    reuse: int = 2
    subject_weight: float = 4.0
    peak: float = 2.5e-3
    decay: float = 0.995


@dataclass(frozen=True, slots=True)
class DecoderRecipe:
    """The decoder goes on with latents of the network's own streams; see ``decoder.py``.

    Windows of ``frames`` latents and ``warm`` before them, ``crop`` pixels high and wide, are cut from groups of
    ``at_once`` streams of ``chunks`` chunks, of which ``held`` are kept and one is made every
    ``refresh_every`` steps. Besides the pixels, the amount of change is compared, at ``liveliness_weight``.
    """

    limits: StageLimits
    batch: int
    frames: int = 6
    warm: int = 2
    crop: int = 64
    chunks: int = 5
    at_once: int = 12
    held: int = 24
    refresh_every: int = 6
    switch_share: float = 0.3
    liveliness_weight: float = 10.0
    peak: float = 1e-3
    decay: float = 0.99


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run needs to be repeated, apart from the device."""

    name: str
    transformer: TransformerConfig
    codec: TaehvConfig
    text: TextEncoderConfig
    width: int
    height: int
    fps: int
    sampler: Sampler
    autoencoder: AutoencoderRecipe
    text_start: TextRecipe
    data: DataRecipe
    teacher: TeacherRecipe
    initialise: InitialiseRecipe
    distil: DistilRecipe
    unroll: UnrollRecipe
    decoder: DecoderRecipe
    classifier: ClassifierRecipe
    guidance: float = 2.5
    vocabulary: int = 512
    seed: int = 1
    window_frames: int = 12
    sink_frames: int = 3
    chunk_frames: int = 3
    bfloat16: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a latent frame, (rows, columns)."""
        return self.transformer.grid(*self.latent_frame[1:])

    @property
    def latent_frame(self) -> tuple[int, int, int]:
        """Shape of a latent frame, (C, H, W)."""
        return self.transformer.in_channels, self.height // 8, self.width // 8

    @property
    def undistilled(self) -> Sampler:
        """How the teacher itself is sampled: Euler's method, guided."""
        return replace(self.sampler, fresh_noise=False, guidance=self.guidance)

    @property
    def unrolled(self) -> Sampler:
        """How a network is sampled that learned from its own streams."""
        return replace(self.sampler, shift=self.unroll.shift)

    def within(self, stage: str, budget_s: float) -> "Recipe":
        """The same recipe with ``stage`` bounded to ``budget_s`` seconds."""
        name = {"text": "text_start"}.get(stage, stage)
        part = getattr(self, name)
        return replace(
            self, **{name: replace(part, limits=replace(part.limits, budget_s=budget_s))}
        )
