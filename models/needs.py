"""What a model needs on disk and on the device, computed from its entry alone.

Nothing is loaded: parameters are counted on the meta device. The figures are for planning and
for the model listing; the engine measures its own memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.entry import BUNDLED, ModelEntry
from models.text_encoder import UMT5
from models.transformer import CausalWan

__all__ = ["Needs", "describe", "needs", "parameters"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes a model takes at one size and dtype.

    Attributes:
        disk_bytes: of the files to fetch, about.
        transformer_bytes, codec_bytes, text_bytes: weights on the device.
        kv_bytes: keys and values of one session's full window.
        prompt_bytes: cross-attention keys and values of one prompt.
        decoder_state_bytes: what one session's decoder remembers.
    """

    disk_bytes: int
    transformer_bytes: int
    codec_bytes: int
    text_bytes: int
    kv_bytes: int
    prompt_bytes: int
    decoder_state_bytes: int

    @property
    def weights_bytes(self) -> int:
        """Transformer and codec: what stays on the device. The text encoder may live elsewhere."""
        return self.transformer_bytes + self.codec_bytes

    @property
    def session_bytes(self) -> int:
        """What one more session takes."""
        return self.kv_bytes + self.prompt_bytes + self.decoder_state_bytes

    def streams(self, device_bytes: int, *, spare: float = 0.1, text_on_device: bool = True) -> int:
        """Count the sessions that memory has room for beside the weights.

        How many a device is fast enough for is measured by the engine when it starts.

        Args:
            device_bytes: memory of the device.
            spare: share of it left for activations and the allocator.
            text_on_device: whether the text encoder stays there too.
        """
        weights = self.weights_bytes + (self.text_bytes if text_on_device else 0)
        left = int(device_bytes * (1.0 - spare)) - weights
        return max(0, left // self.session_bytes)


def parameters(module: nn.Module) -> int:
    """Count the numbers in ``module``'s weights."""
    return sum(weight.numel() for weight in module.parameters())


def needs(
    entry: ModelEntry,
    *,
    size: tuple[int, int] | None = None,
    element_bytes: int = 2,
    codec: str | None = None,
) -> Needs:
    """Compute what ``entry`` takes.

    Args:
        entry: the model.
        size: (width, height) in pixels; the entry's default when absent.
        element_bytes: of one weight, key or value: 2 for bfloat16, 4 for float32.
        codec: name of one of the entry's codecs; the default when absent.
    """
    config = entry.transformer
    chosen = entry.codec_named(codec)
    size = size or entry.sizes[0]
    width, height = size
    rows, columns = config.grid_of(size)
    per_token = 2 * config.dim * config.num_layers * element_bytes
    with torch.device("meta"):
        counts = [
            parameters(module) * element_bytes
            for module in (CausalWan(config), chosen.build(), UMT5(entry.text))
        ]
    return Needs(
        disk_bytes=sum(file.about_bytes for file in entry.files(codec)),
        transformer_bytes=counts[0],
        codec_bytes=counts[1],
        text_bytes=counts[2],
        kv_bytes=per_token * rows * columns * entry.cache.planned_window,
        prompt_bytes=per_token * config.text_len,
        decoder_state_bytes=element_bytes
        * chosen.config.decoder_state_elements(height // 8, width // 8),
    )


def describe(
    entry: ModelEntry,
    *,
    cache_dir: Path,
    device_bytes: int | None = None,
    element_bytes: int = 2,
    codec: str | None = None,
    text_on_device: bool = True,
    need: Needs | None = None,
) -> dict[str, Any]:
    """Describe ``entry`` as plain JSON values, for ``/v1/models`` and the command line.

    Args:
        entry: the model.
        cache_dir: where fetched files are.
        device_bytes: memory of the device; absent, ``streams_that_fit`` is null.
        element_bytes: of one weight, key or value.
        codec: name of one of the entry's codecs; the default when absent.
        text_on_device: whether the text encoder stays on the device.
        need: what ``needs`` gave for these arguments, when it is already known.
    """
    need = need or needs(entry, element_bytes=element_bytes, codec=codec)
    absent = [f"{file.source}/{file.path}" for file in entry.missing(cache_dir, codec)]
    if (
        entry.bundled
        and not (weights := BUNDLED / entry.name / "transformer.safetensors").is_file()
    ):
        absent.append(str(weights.relative_to(BUNDLED.parent.parent)))
    return {
        "name": entry.name,
        "title": entry.title,
        "present": not absent,
        "missing_files": absent,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "sizes": [f"{width}x{height}" for width, height in entry.sizes],
        "fps": entry.fps,
        "steps": entry.sampler.num_steps,
        "chunk_frames": entry.cache.chunk_frames,
        "window_frames": entry.cache.window_frames,
        "sink_frames": entry.cache.sink_frames,
        "codecs": [choice.name for choice in entry.codecs],
        "image_to_video": entry.image_to_video,
        "continuation": entry.continues_video,
        "disk_bytes": need.disk_bytes if not entry.bundled else _size_of(BUNDLED / entry.name),
        "weights_bytes": need.weights_bytes,
        "text_encoder_bytes": need.text_bytes,
        "kv_bytes_per_session": need.kv_bytes + need.prompt_bytes,
        "decoder_state_bytes_per_session": need.decoder_state_bytes,
        "streams_that_fit": None
        if device_bytes is None
        else need.streams(device_bytes, text_on_device=text_on_device),
        "notes": entry.notes,
        "example_prompts": list(entry.example_prompts),
    }


def _size_of(folder: Path) -> int:
    """Return the bytes of the files in ``folder``; none when it is not there."""
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
