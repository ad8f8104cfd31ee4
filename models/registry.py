"""The models that can be served by name. Adding a checkpoint of this family is adding an entry.

Sizes, steps and policies are those of the released configurations; where a checkpoint's own
program leaves a choice open (what a new prompt does to the cache, what happens after the trained
length), the entry's notes say what was chosen.
"""

from dataclasses import replace

from models.config import TransformerConfig
from models.entry import Checkpoint, Codec, Lora, ModelEntry, RemoteFile
from models.policy import CachePolicy
from models.sampler import Sampler
from models.taehv import TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.vae import VaeConfig

__all__ = [
    "ENTRIES",
    "LONGTAKE_TINY",
    "WAN_1_3B",
    "WAN_14B",
    "find",
    "names",
]

WAN_1_3B = TransformerConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
WAN_14B = TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)

_GB = 10**9
_LANDSCAPE_AND_PORTRAIT = ((832, 480), (480, 832))
_BASE = "Wan-AI/Wan2.1-T2V-1.3B"
_UMT5 = Checkpoint(RemoteFile(_BASE, "models_t5_umt5-xxl-enc-bf16.pth", 11_361_820_672))
_TOKENIZER = RemoteFile(_BASE, "google/umt5-xxl/spiece.model", 4_548_313)
_WAN_VAE = Codec(
    "wan-vae", VaeConfig(), Checkpoint(RemoteFile(_BASE, "Wan2.1_VAE.pth", 507_570_124))
)
_TAEHV = Codec(
    "taehv",
    TaehvConfig(),
    Checkpoint(
        RemoteFile(
            "https://raw.githubusercontent.com/madebyollin/taehv/"
            "1f14a568f24bf8811e0a0ac601613e04fc1581e8/safetensors",
            "taew2_1.safetensors",
            22_600_000,
            git_blob="ec1a2be453a250aa406e912bb630c34463ba0b2f",
        )
    ),
)
_FOUR_STEPS = Sampler(shift=5.0, steps=(1000.0, 750.0, 500.0, 250.0), warp=True)
_PROMPTS = (
    "A slow dolly shot follows a red fox trotting along a snowy forest path at dawn, breath "
    "misting in the cold air, soft golden light between the pines, cinematic, highly detailed.",
    "Waves roll onto a black sand beach under a dramatic evening sky, foam drawing white lines "
    "on the shore, seen from a drone that glides parallel to the waterline.",
)


def _wan(
    name: str,
    title: str,
    checkpoint: Checkpoint,
    *,
    licence: str,
    licence_url: str,
    cache: CachePolicy,
    sampler: Sampler = _FOUR_STEPS,
    transformer: TransformerConfig = WAN_1_3B,
    lora: Lora | None = None,
    start_image_frames: int | None = None,
    notes: str = "",
) -> ModelEntry:
    """Declare a checkpoint on Wan2.1 with its text encoder and codecs."""
    return ModelEntry(
        name=name,
        title=title,
        transformer=transformer,
        text=TextEncoderConfig(),
        codecs=(_TAEHV, _WAN_VAE),
        sampler=sampler,
        cache=cache,
        sizes=_LANDSCAPE_AND_PORTRAIT,
        fps=16,
        licence=f"{licence}; text encoder and VAE Apache-2.0 (Wan2.1); TAEHV MIT",
        licence_url=licence_url,
        checkpoint=checkpoint,
        lora=lora,
        text_checkpoint=_UMT5,
        tokenizer=_TOKENIZER,
        start_image_frames=start_image_frames,
        notes=notes,
        example_prompts=_PROMPTS,
    )


# 21 latent frames is the length the Self-Forcing family was trained on and its cache holds;
# up to there the window changes nothing, beyond it the oldest frames leave.
_TRAINED_LENGTH = CachePolicy(window_frames=21, recache="block_causal")
_SLIDES = (
    "Trained on 21 latent frames (81 pixel frames); longer streams slide a window of that "
    "length. A new prompt rebuilds the window chunk by chunk, as generation built it."
)

LONGTAKE_TINY = ModelEntry(
    name="longtake-tiny",
    title="The bundled model: small shapes in motion, 160x96, made for CPUs",
    transformer=TransformerConfig(
        dim=384,
        ffn_dim=1024,
        num_heads=6,
        num_layers=9,
        text_dim=192,
        text_len=48,
        placed=True,
        frame_places=3,
        predicts_x0=True,
    ),
    text=TextEncoderConfig(
        vocab_size=512,
        dim=192,
        dim_attn=192,
        dim_ffn=384,
        num_heads=3,
        num_layers=3,
        text_len=48,
    ),
    codecs=(Codec("taehv", TaehvConfig(decoder_widths=(128, 64, 32, 32), encoder_width=48), None),),
    sampler=Sampler(shift=3.0, steps=(1000.0, 750.0, 500.0, 250.0), warp=True),
    cache=CachePolicy(window_frames=12, sink_frames=3, rope="window", recache="block_causal"),
    sizes=((160, 96),),
    fps=16,
    licence="Apache-2.0",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    start_image_frames=9,
    notes="Weights come with the program; trained by models/train on synthetic scenes.",
)

SELF_FORCING = _wan(
    "wan2.1-1.3b-self-forcing",
    "Self-Forcing on Wan2.1 1.3B, 4 steps, chunks of 3 latent frames",
    Checkpoint(
        RemoteFile("gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt", int(5.7 * _GB)),
        keys=("generator_ema", "generator", "model"),
    ),
    licence="CC-BY-NC-SA-4.0 (model card; the code is Apache-2.0)",
    licence_url="https://huggingface.co/gdhe17/Self-Forcing",
    cache=_TRAINED_LENGTH,
    notes=_SLIDES,
)

CAUSVID = _wan(
    "wan2.1-1.3b-causvid",
    "CausVid on Wan2.1 1.3B, 3 steps, chunks of 3 latent frames",
    Checkpoint(
        RemoteFile("tianweiy/CausVid", "autoregressive_checkpoint/model.pt", int(5.7 * _GB)),
        keys=("generator", "generator_ema", "model"),
    ),
    licence="CC-BY-NC-SA-4.0",
    licence_url="https://github.com/tianweiy/CausVid/blob/master/LICENSE.md",
    sampler=Sampler(shift=8.0, steps=(1000.0, 757.0, 522.0), warp=False),
    cache=_TRAINED_LENGTH,
    notes=f"{_SLIDES} The original joins long videos from separate 21-frame rollouts instead.",
)

LONGLIVE = _wan(
    "longlive-1.3b",
    "LongLive 1.0 on Wan2.1 1.3B: 12-frame window, 3-frame sink, prompt switches by recache",
    Checkpoint(
        RemoteFile(
            "Efficient-Large-Model/LongLive-1.3B", "models/longlive_base.pt", int(5.7 * _GB)
        ),
        keys=("generator", "generator_ema", "model"),
    ),
    licence="CC-BY-NC-SA-4.0 (marked in files of the v1.0 code)",
    licence_url="https://huggingface.co/Efficient-Large-Model/LongLive-1.3B",
    lora=Lora(
        RemoteFile("Efficient-Large-Model/LongLive-1.3B", "models/lora.pt", int(1.4 * _GB)),
        alpha=256.0,
    ),
    cache=CachePolicy(
        window_frames=12, sink_frames=3, recache="bidirectional", keep_sink_on_recache=True
    ),
)

LONGLIVE_INFINITY = replace(
    LONGLIVE,
    name="longlive-1.3b-infinity",
    title="LongLive 1.0 with window-relative positions, for streams without end",
    cache=replace(LONGLIVE.cache, rope="window"),
    notes="The weights of longlive-1.3b; keys are rotated anew at every pass.",
)

_CF = "zhuhz22/Causal-Forcing"
_CF_LICENCE = "Apache-2.0 (the code's; see the model card)"
_CF_URL = "https://huggingface.co/zhuhz22/Causal-Forcing"
_FRAMEWISE = replace(_TRAINED_LENGTH, chunk_frames=1)
_EMA_FIRST = ("generator_ema", "generator", "model")

CAUSAL_FORCING_CHUNKWISE = _wan(
    "causal-forcing-chunkwise",
    "Causal-Forcing on Wan2.1 1.3B, 4 steps, chunks of 3 latent frames",
    Checkpoint(
        RemoteFile(_CF, "chunkwise/causal_forcing.pt", int(5.7 * _GB)),
        keys=("generator", "generator_ema", "model"),
    ),
    licence=_CF_LICENCE,
    licence_url=_CF_URL,
    cache=_TRAINED_LENGTH,
    notes=_SLIDES,
)

CAUSAL_FORCING_FRAMEWISE = _wan(
    "causal-forcing-framewise",
    "Causal-Forcing on Wan2.1 1.3B, 4 steps, one latent frame at a time",
    Checkpoint(RemoteFile(_CF, "framewise/causal_forcing.pt", int(5.7 * _GB)), keys=_EMA_FIRST),
    licence=_CF_LICENCE,
    licence_url=_CF_URL,
    cache=_FRAMEWISE,
    start_image_frames=1,
    notes=f"{_SLIDES} Starts from an image.",
)

CAUSAL_FORCING_FRAMEWISE_2STEP = replace(
    CAUSAL_FORCING_FRAMEWISE,
    name="causal-forcing-framewise-2step",
    title="Causal-Forcing++ on Wan2.1 1.3B, 2 steps (4 for the first frame)",
    checkpoint=Checkpoint(
        RemoteFile(_CF, "causal-forcing++/framewise-2step.pt", int(5.7 * _GB)), keys=_EMA_FIRST
    ),
    sampler=Sampler(
        shift=5.0,
        steps=(1000.0, 500.0),
        warp=True,
        first_chunk_steps=_FOUR_STEPS.steps,
    ),
)

CAUSAL_FORCING_FRAMEWISE_1STEP = replace(
    CAUSAL_FORCING_FRAMEWISE,
    name="causal-forcing-framewise-1step",
    title="Causal-Forcing++ on Wan2.1 1.3B, 1 step (4 for the first frame)",
    checkpoint=Checkpoint(
        RemoteFile(_CF, "causal-forcing++/framewise-1step.pt", int(5.7 * _GB)), keys=_EMA_FIRST
    ),
    sampler=Sampler(
        shift=5.0,
        steps=(1000.0,),
        warp=True,
        first_chunk_steps=_FOUR_STEPS.steps,
    ),
)

KREA_14B = _wan(
    "krea-realtime-14b",
    "Krea Realtime on Wan2.1 14B: the cache is rebuilt from clean latents before every chunk",
    Checkpoint(
        RemoteFile(
            "krea/krea-realtime-video", "krea-realtime-video-14b.safetensors", int(28.6 * _GB)
        )
    ),
    licence="CC-BY-NC-SA-4.0",
    licence_url="https://huggingface.co/krea/krea-realtime-video",
    transformer=WAN_14B,
    sampler=Sampler(
        shift=5.0, steps=(1000.0, 750.0, 500.0, 250.0, 0.0), warp=True, spacing="linspace"
    ),
    # Positions count from 0 in every recomputed context, so the keys can be stored rotated.
    cache=CachePolicy(window_frames=6, recache="every_chunk", keep_sink_on_recache=False),
    notes="Context of 3 latent frames, recomputed block-causally before every chunk; its first "
    "frame is made anew from decoded pixels. Closest to the original with the wan-vae codec.",
)

ENTRIES: tuple[ModelEntry, ...] = (
    LONGTAKE_TINY,
    SELF_FORCING,
    CAUSVID,
    LONGLIVE,
    LONGLIVE_INFINITY,
    CAUSAL_FORCING_CHUNKWISE,
    CAUSAL_FORCING_FRAMEWISE,
    CAUSAL_FORCING_FRAMEWISE_2STEP,
    CAUSAL_FORCING_FRAMEWISE_1STEP,
    KREA_14B,
)


def names() -> tuple[str, ...]:
    """List the names that ``find`` knows."""
    return tuple(entry.name for entry in ENTRIES)


def find(name: str) -> ModelEntry:
    """Return the entry called ``name``.

    Raises:
        ValueError: there is none.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise ValueError(
        f"model {name!r}; known are {', '.join(names())}; choose one of these, or name@path to "
        "load other weights of the same kind"
    )
