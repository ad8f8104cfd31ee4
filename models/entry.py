"""What a model is, declared as plain values: architecture, files, sampler, cache policy, licence.

An entry is read by the loader, the fetcher, the engine and the model listing; none of them
knows a model by name. No file is opened and no memory taken here.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from models.config import TransformerConfig
from models.policy import CachePolicy
from models.sampler import Sampler
from models.taehv import Taehv, TaehvConfig
from models.text_encoder import TextEncoderConfig
from models.vae import VaeConfig, WanVae

__all__ = ["BUNDLED", "Checkpoint", "Codec", "Lora", "ModelEntry", "RemoteFile"]


BUNDLED = Path(__file__).parent / "weights"
"""Folder of the models that come with the program, one folder each."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A published file.

    Attributes:
        source: Hugging Face repository (``owner/name``), or the address of a folder
            (``https://...``).
        path: the file inside it.
        about_bytes: size as published or computed, for planning; the fetcher asks for the
            exact one.
        revision: branch, tag or commit; ignored for an address.
        git_blob: git's object id, where the source has no checksum of its own.
    """

    source: str
    path: str
    about_bytes: int
    revision: str = "main"
    git_blob: str | None = None

    def local(self, cache_dir: Path) -> Path:
        """Return where the file lies in the cache folder."""
        folder = self.source.removeprefix("https://").replace("/", "--")
        return cache_dir / folder / self.path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where weights are and how to find them inside.

    Attributes:
        file: a pickle or safetensors file, or the index of a sharded one.
        keys: names under which a pickle may hold the wanted state dict, best first.
    """

    file: RemoteFile
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank updates to merge into the base: ``W += alpha / rank * B @ A``."""

    file: RemoteFile
    alpha: float
    keys: tuple[str, ...] = ("generator_lora",)


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to turn a model's latents into pixels and back."""

    name: str
    config: TaehvConfig | VaeConfig
    checkpoint: Checkpoint | None

    def build(self) -> Taehv | WanVae:
        """Build the network on whatever device is the default; no weights are read."""
        return Taehv(self.config) if isinstance(self.config, TaehvConfig) else WanVae(self.config)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that can be served.

    Attributes:
        name: what ``--model`` takes.
        title: one line for people.
        transformer: sizes of the network.
        text: sizes of the text encoder.
        codecs: the default first.
        sampler: steps and shift the weights were trained for.
        cache: what a chunk attends to, and what a new prompt does to it.
        sizes: (width, height) in pixels, the default first.
        fps: frames a second the model was trained on.
        licence: of the weights.
        licence_url: where its text is.
        checkpoint: of the transformer; None for weights that come with the program.
        lora: merged into the checkpoint at load.
        text_checkpoint: of the text encoder.
        tokenizer: its sentencepiece model.
        start_image_frames: pixel frames a start image stands for when a stream begins with
            it; None for a model that was not made to start from an image.
        continues_video: whether a stream may begin with frames of an existing video.
        notes: what a user should know before choosing it.
        example_prompts: prompts in the style the model was trained on.
    """

    name: str
    title: str
    transformer: TransformerConfig
    text: TextEncoderConfig
    codecs: tuple[Codec, ...]
    sampler: Sampler
    cache: CachePolicy
    sizes: tuple[tuple[int, int], ...]
    fps: int
    licence: str
    licence_url: str
    checkpoint: Checkpoint | None = None
    lora: Lora | None = None
    text_checkpoint: Checkpoint | None = None
    tokenizer: RemoteFile | None = None
    start_image_frames: int | None = None
    continues_video: bool = True
    notes: str = ""
    example_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.text.dim != self.transformer.text_dim:
            raise ValueError(
                f"{self.name}: text encoder of width {self.text.dim}, transformer for "
                f"{self.transformer.text_dim}; they must be equal"
            )
        if self.text.text_len != self.transformer.text_len:
            raise ValueError(
                f"{self.name}: text encoder of {self.text.text_len} rows, transformer for "
                f"{self.transformer.text_len}; they must be equal"
            )
        _, rows, columns = self.transformer.patch
        for width, height in self.sizes:
            if width % (8 * columns) or height % (8 * rows):
                raise ValueError(
                    f"{self.name}: size {width}x{height}; width must be a multiple of "
                    f"{8 * columns} and height of {8 * rows}"
                )

    @property
    def codec(self) -> Codec:
        """The codec used unless another is asked for."""
        return self.codecs[0]

    @property
    def bundled(self) -> bool:
        """Whether the weights come with the program."""
        return self.checkpoint is None

    @property
    def image_to_video(self) -> bool:
        """Whether a stream may begin with a start image."""
        return self.start_image_frames is not None

    def codec_named(self, name: str | None) -> Codec:
        """Return the codec called ``name``; the default when None.

        Raises:
            ValueError: the model has no such codec.
        """
        if name is None:
            return self.codec
        for codec in self.codecs:
            if codec.name == name:
                return codec
        names = ", ".join(codec.name for codec in self.codecs)
        raise ValueError(f"codec {name!r} for {self.name}; it has {names}; choose one of these")

    def with_codec(self, codec: Codec) -> "ModelEntry":
        """Return the entry with ``codec``, one of its own, as the default."""
        others = tuple(other for other in self.codecs if other is not codec)
        return replace(self, codecs=(codec, *others))

    def files(self, codec: str | None = None) -> tuple[RemoteFile, ...]:
        """List the files to fetch, with the default or the named codec."""
        chosen = self.codec_named(codec)
        parts = (self.checkpoint, self.lora, chosen.checkpoint, self.text_checkpoint)
        files = [part.file for part in parts if part is not None]
        if self.tokenizer is not None:
            files.append(self.tokenizer)
        return tuple(files)

    def missing(self, cache_dir: Path, codec: str | None = None) -> tuple[RemoteFile, ...]:
        """List the files that are not in the cache folder."""
        return tuple(file for file in self.files(codec) if not file.local(cache_dir).is_file())
