"""Prompt embeddings for a running engine: computed once per text, wherever the encoder lives.

Wan's text encoder is four times as large as its 1.3 B transformer and runs for a fraction of a
second per prompt, so it may stay on the CPU, or visit the device only while it works. Embeddings
are kept by content and shared by all sessions. Calls from several threads wait for each other.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.text_encoder import TextEncoder
from models.tokenizer import clean

__all__ = ["TextEncoderHost", "TextPlacement"]

TextPlacement = Literal["device", "cpu", "offload"]


class TextEncoderHost:
    """Encodes prompts without gradients and remembers the results.

    Args:
        encoder: tokenizer and network; the network is moved as ``placement`` says.
        device: where embeddings are wanted.
        dtype: of the embeddings.
        placement: "device" keeps the network on the device, "cpu" runs it on the CPU,
            "offload" brings it to the device for each new prompt and back afterwards.
        capacity: texts remembered; the least recently used is forgotten first.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        device: torch.device,
        dtype: torch.dtype,
        placement: TextPlacement = "device",
        capacity: int = 256,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity}; at least one text must be remembered")
        self.encoder = encoder
        self.placement = placement
        self._device, self._dtype, self._capacity = device, dtype, capacity
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        encoder.network.to(device if placement == "device" else "cpu")

    def __len__(self) -> int:
        """Count the texts remembered."""
        return len(self._rows)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed B prompts as ``[B, text_len, dim]`` on the host's device, in its dtype.

        Texts that clean to the same words share one embedding, which does not depend on what
        else is encoded with it.
        """
        wanted = [clean(text) for text in texts]
        with self._lock:
            return self._encode(wanted)

    def _encode(self, wanted: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(wanted) if text not in self._rows]
        if new:
            self._learn(new)
        rows = []
        for text in wanted:
            self._rows.move_to_end(text)
            row = self._rows[text]
            padding = self.encoder.text_len - row.shape[0]
            rows.append(functional.pad(row, (0, 0, 0, padding)))
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return torch.stack(rows)

    def _learn(self, texts: Sequence[str]) -> None:
        network = self.encoder.network
        visiting = self.placement == "offload"
        if visiting:
            network.to(self._device)
        try:
            with torch.no_grad():
                for text in texts:
                    # One at a time: in a batch, rounding would depend on the longest text.
                    self._rows[text] = self.encoder.encode_row(text).to(self._device, self._dtype)
        finally:
            if visiting:
                network.to("cpu")
