"""All that a stream needs to go on elsewhere, as bytes.

A snapshot is taken between two chunks and holds the stream's latents, keys and values, decoder
state and prompts at full precision, so that what follows is bit for bit what would have followed
(same model, device, dtype and backend; under merge-clean-pass up to rounding). A policy that
rebuilds its context before every chunk needs no keys and values. The container is safetensors:
reading one runs no code.

Noise is not in it, because noise is a function of seed and place.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.generator import Generator
from engine.held import Held
from engine.stream import Stream
from models.interface import LoadedModel

log = logging.getLogger(__name__)

FORMAT = 2


def model_id(model: LoadedModel) -> str:
    """Name what a stream's state belongs to: the network, its dtype, and the codec."""
    return f"{model.entry.name} {model.entry.codec.name} {model.dtype}"


class SnapshotError(ValueError):
    """The bytes are not a snapshot that this engine can go on from."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream between two chunks.

    Attributes:
        model: What it goes on from, see ``model_id``.
        session: ``Held.state()``.
        latent_hw: Latent height and width.
        latent_frames: Latent frames made so far.
        held: ``PageTable.held()``.
        next_frame: Of the page table.
        tensors: By name, on the CPU.
    """

    model: str
    session: dict[str, Any]
    latent_hw: tuple[int, int]
    latent_frames: int
    held: tuple[tuple[int, int], ...]
    next_frame: int
    tensors: dict[str, Tensor]

    @classmethod
    def take(cls, held: Held, model: LoadedModel, generator: Generator) -> Snapshot:
        """Copy a stream's state; the stream goes on. A clean pass that is owed is made first.

        Args:
            held: The stream.
            model: What makes it.
            generator: Has its pages.
        """
        stream = held.stream
        generator.settle(stream)
        tensors = {
            name: value
            for name in ("recent", "first", "anchor", "pixels")
            if (value := getattr(stream, name)) is not None
        }
        for index, value in enumerate(stream.decoder or ()):
            tensors[f"decoder.{index}"] = value
        if generator.keeps_cache and stream.table.frames:
            k, v = generator.pool.export(stream.table.logical_pages)
            tensors |= {"k": k, "v": v}
        return cls(
            model=model_id(model),
            session=held.state(),
            latent_hw=stream.latent_hw,
            latent_frames=stream.latent_frames,
            held=tuple(stream.table.held()),
            next_frame=stream.table.next_frame,
            tensors={name: value.cpu().contiguous() for name, value in tensors.items()},
        )

    def restore(self, held: Held, model: LoadedModel, generator: Generator) -> None:
        """Bring a freshly opened stream to this state.

        Args:
            held: The stream; not to be used where this fails.
            model: What makes it.
            generator: Has its pages.

        Raises:
            SnapshotError: It is of another model, codec, dtype or shape, or damaged.
        """
        if self.model != model_id(model):
            raise SnapshotError(
                f"a snapshot of {self.model}; this engine runs {model_id(model)}; restore it there"
            )
        try:
            self._put(held.stream, generator)
            held.restore(self.session)
        except SnapshotError:
            raise
        except Exception as error:
            # Whatever may be wrong with it: the stream can always begin anew.
            log.exception("the snapshot of %s cannot be restored", held.session.spec.session_id)
            raise SnapshotError(f"a damaged snapshot ({error!r}); start the stream anew") from error

    def _put(self, stream: Stream, generator: Generator) -> None:
        pool = generator.pool
        device = pool.k.device
        capacity = stream.table.capacity
        pages_per_frame = len(stream.table.pages) // capacity
        frames = len(self.held)
        # A window that has slid is full.
        held = min(self.next_frame, capacity)
        if stream.latent_hw != self.latent_hw or frames != held:
            raise SnapshotError(
                f"a snapshot of {frames} frames of {self.latent_hw} for a stream of "
                f"{capacity} frames of {stream.latent_hw}; restore it with the same "
                "size, model and window"
            )
        slots = {slot for _, slot in self.held}
        if len(slots) != frames or not slots <= set(range(capacity)):
            raise SnapshotError(
                f"a snapshot with frames in slots {[slot for _, slot in self.held]}; a stream has "
                f"{capacity}, one for each; start the stream anew"
            )
        stream.table.restore(self.held, self.next_frame)
        if "k" in self.tensors:
            k, v = self.tensors["k"], self.tensors["v"]
            expected = pool.exported_shape(frames * pages_per_frame)
            if tuple(k.shape) != expected or v.shape != k.shape:
                raise SnapshotError(
                    f"a snapshot with keys {tuple(k.shape)}; this engine's are {expected}; "
                    "restore it on the same model with the same page size"
                )
            pool.load(stream.table.logical_pages, k, v)
        for name in ("recent", "first", "anchor", "pixels"):
            value = self.tensors.get(name)
            setattr(stream, name, None if value is None else value.to(device))
        memory: list[Tensor] = []
        while f"decoder.{len(memory)}" in self.tensors:
            memory.append(self.tensors[f"decoder.{len(memory)}"].to(device))
        stream.decoder = tuple(memory) or None
        stream.latent_frames = self.latent_frames

    def to_bytes(self) -> bytes:
        """Pack it."""
        about = {
            "format": FORMAT,
            "model": self.model,
            "session": self.session,
            "latent_hw": self.latent_hw,
            "latent_frames": self.latent_frames,
            "held": self.held,
            "next_frame": self.next_frame,
        }
        text = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
        return save({**self.tensors, "about": text})

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Unpack it.

        Raises:
            SnapshotError: The bytes are damaged or of another version.
        """
        try:
            tensors = load(data)
            about = json.loads(bytes(tensors.pop("about").numpy()))
            if about["format"] != FORMAT:
                raise SnapshotError(
                    f"a snapshot of format {about['format']}; this program reads {FORMAT}; "
                    "start the stream anew"
                )
            return cls(
                model=str(about["model"]),
                session=about["session"],
                latent_hw=(int(about["latent_hw"][0]), int(about["latent_hw"][1])),
                latent_frames=int(about["latent_frames"]),
                held=tuple((int(frame), int(slot)) for frame, slot in about["held"]),
                next_frame=int(about["next_frame"]),
                tensors=tensors,
            )
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, SnapshotError):
                raise
            raise SnapshotError(f"not a snapshot ({error!r}); start the stream anew") from None
