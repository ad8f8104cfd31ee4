"""The entries of a session's media stream, as worker and gateway both read them.

One entry holds one chunk with every codec it was encoded in, the decoder configuration of each and
the receipts that take effect with it; so a reader that begins anywhere has all it needs. Knows no
Redis: ``to_message`` and ``from_message`` are plain JSON values.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.media.types import AccessUnit, CodecConfig, EncodedChunk


@dataclass(frozen=True, slots=True)
class CodedChunk:
    """One chunk in one codec."""

    config: CodecConfig
    sizes: tuple[int, ...]
    keys: tuple[bool, ...]
    encode_ms: float
    data: bytes

    @classmethod
    def of(cls, chunk: EncodedChunk, encode_ms: float) -> "CodedChunk":
        """Flatten an encoder's result; the data is the units one after the other."""
        return cls(
            chunk.config,
            tuple(len(unit.data) for unit in chunk.units),
            tuple(unit.keyframe for unit in chunk.units),
            encode_ms,
            b"".join(unit.data for unit in chunk.units),
        )

    @property
    def starts_with_key(self) -> bool:
        """Whether a decoder can begin here."""
        return self.keys[0]

    def units(self) -> tuple[AccessUnit, ...]:
        """Return the access units apart."""
        units, at = [], 0
        for size, key in zip(self.sizes, self.keys, strict=True):
            units.append(AccessUnit(self.data[at : at + size], key))
            at += size
        return tuple(units)


@dataclass(frozen=True, slots=True)
class ChunkEntry:
    """One chunk as published. ``applied`` are ids of events that take effect with it."""

    epoch: int
    chunk_index: int
    first_frame: int
    num_frames: int
    prompt_rev: int
    steps: int
    queue_ms: float
    denoise_ms: float
    decode_ms: float
    applied: tuple[str, ...]
    codecs: Mapping[str, CodedChunk]

    def to_message(self) -> dict[str, Any]:
        """Return the JSON part; the data goes beside it, see ``data``."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        codecs = {
            name: {
                **config_to_json(coded.config),
                "sizes": coded.sizes,
                "keys": [int(key) for key in coded.keys],
                "encode_ms": round(coded.encode_ms, 3),
            }
            for name, coded in self.codecs.items()
        }
        return {"t": "chunk", **plain, "applied": self.applied, "codecs": codecs}

    def data(self) -> dict[str, bytes]:
        """Return the binary fields by codec."""
        return {name: coded.data for name, coded in self.codecs.items()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any], data: Mapping[str, bytes]) -> "ChunkEntry":
        """Rebuild an entry."""
        codecs = {
            name: CodedChunk(
                config_from_json(value),
                tuple(value["sizes"]),
                tuple(bool(key) for key in value["keys"]),
                value["encode_ms"],
                data[name],
            )
            for name, value in message["codecs"].items()
        }
        plain = {name: message[name] for name in _PLAIN}
        return cls(**plain, applied=tuple(message["applied"]), codecs=codecs)


_PLAIN = (
    "epoch", "chunk_index", "first_frame", "num_frames", "prompt_rev", "steps", "queue_ms",
    "denoise_ms", "decode_ms",
)  # fmt: skip


def end_notices(record: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """Return the entries that tell viewers of a stream's end, as its record has it.

    None while it goes on or has no record.
    """
    counts = {
        "chunks": int(record.get("next_chunk", 0)),
        "frames": int(record.get("next_frame", 0)),
    }
    done = {"t": "done", "reason": record.get("reason", "error"), **counts}
    state = record.get("state")
    if state == "dead":
        return ({"t": "error", "code": "stream_failed", "message": record["error"]}, done)
    return (done,) if state == "done" else ()


def config_to_json(config: CodecConfig) -> dict[str, Any]:
    """Return a decoder configuration as JSON values."""
    return {
        "codec": config.codec,
        "mime": config.mime,
        "description": base64.b64encode(config.description).decode(),
        "width": config.width,
        "height": config.height,
    }


def config_from_json(value: Mapping[str, Any]) -> CodecConfig:
    """Rebuild a decoder configuration."""
    return CodecConfig(
        value["codec"],
        value["mime"],
        base64.b64decode(value["description"]),
        value["width"],
        value["height"],
    )
