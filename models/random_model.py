"""Models with random weights: the shapes and the cost of a real one, for tests and benchmarks.

Nothing is read or downloaded. Where the text encoder would be larger than a benchmark needs, the
embeddings are drawn from a seed made of the text instead.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.interface import Kernels
from models.entry import ModelEntry
from models.interface import LoadedModel, TextEncoder
from models.taehv import Taehv
from models.text_encoder import UMT5, TextEncoderConfig
from models.text_encoder import TextEncoder as Encoder
from models.text_host import TextEncoderHost, TextPlacement
from models.tokenizer import ByteTokenizer
from models.transformer import CausalWan

__all__ = ["DrawnText", "random_model"]

_LARGEST_NETWORK_DIM = 1024


class DrawnText:
    """Embeddings that depend on the text and mean nothing."""

    def __init__(
        self, config: TextEncoderConfig, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._config, self._device, self._dtype = config, device, dtype

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Draw ``[B, text_len, dim]``; rows beyond the words of a text are zero."""
        rows = torch.zeros(len(texts), self._config.text_len, self._config.dim)
        for row, text in zip(rows, texts, strict=True):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
            words = min(len(text.split()) + 1, self._config.text_len)
            generator = torch.Generator().manual_seed(seed)
            row[:words] = torch.randn(words, self._config.dim, generator=generator) * 0.2
        return rows.to(self._device, self._dtype)


def random_model(
    entry: ModelEntry,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    codec: str | None = None,
    kernels: Kernels | None = None,
    text_placement: TextPlacement = "device",
) -> LoadedModel:
    """Build ``entry`` with random weights, the same for the same seed and device.

    Args:
        entry: what to build.
        seed: of the weights.
        device: where they are drawn and stay.
        dtype: of all weights.
        codec: name of one of the entry's codecs; the default when absent.
        kernels: operations for the transformer; plain torch when absent.
        text_placement: where the text encoder lives and works.
    """
    place = torch.device(device)
    chosen = entry.codec_named(codec)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices), place:
        torch.manual_seed(seed)
        transformer = CausalWan(entry.transformer, kernels).to(dtype)
        decoder = chosen.build().to(dtype)
        if isinstance(decoder, Taehv):
            decoder.lay_out()
        text: TextEncoder
        if entry.text.dim > _LARGEST_NETWORK_DIM:
            text = DrawnText(entry.text, device=place, dtype=dtype)
        else:
            network = UMT5(entry.text)
            network.init_weights()
            text = TextEncoderHost(
                Encoder(network.to(dtype).requires_grad_(False).eval(), ByteTokenizer()),
                device=place,
                dtype=dtype,
                placement=text_placement,
            )
    transformer.requires_grad_(False).eval()
    decoder.requires_grad_(False).eval()
    entry = entry.with_codec(chosen)
    return LoadedModel(entry, transformer, text, decoder, place, dtype)
