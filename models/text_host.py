"""The text encoder of a running engine: wherever it lives, one caller at a time.

Wan's text encoder is four times as large as its 1.3 B transformer and runs for a fraction of a
second per prompt, so it may stay on the CPU, or visit the device only while it works. Calls from
several threads wait for each other. Who wants an embedding again keeps it.
"""

import threading
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from models.text_encoder import TextEncoder

__all__ = ["TextEncoderHost", "TextPlacement"]

TextPlacement = Literal["device", "cpu", "offload"]


class TextEncoderHost:
    """Encodes prompts without gradients.

    Args:
        encoder: tokenizer and network; the network is moved as ``placement`` says.
        device: where embeddings are wanted.
        dtype: of the embeddings.
        placement: "device" keeps the network on the device, "cpu" runs it on the CPU,
            "offload" brings it to the device for each call and back afterwards.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        device: torch.device,
        dtype: torch.dtype,
        placement: TextPlacement = "device",
    ) -> None:
        self.encoder = encoder
        self.placement = placement
        self._device, self._dtype = device, dtype
        self._lock = threading.Lock()
        encoder.network.to(device if placement == "device" else "cpu")

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed B prompts as ``[B, text_len, dim]`` on the host's device, in its dtype.

        An embedding does not depend on what else is encoded with it.
        """
        network = self.encoder.network
        visiting = self.placement == "offload"
        with self._lock, torch.no_grad():
            if visiting:
                network.to(self._device)
            try:
                # One at a time: in a batch, rounding would depend on the longest text.
                rows = [self.encoder.encode([text]) for text in texts]
                return torch.cat(rows).to(self._device, self._dtype)
            finally:
                if visiting:
                    network.to("cpu")
