"""Embeddings of texts and keys of blends, kept across sessions by content.

The embedding of a blend is the weighted sum of its texts' embeddings, as Krea Realtime's
transitions do; the network turns it into keys and values once. Both caches forget what was used
longest ago when they exceed their bytes; a session keeps what it is using by a reference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from engine.types import Prompts
from models.interface import TextEncoder
from models.transformer import PromptKV

K = TypeVar("K")
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Least recently used values up to a number of bytes; the newest one always stays.

    Args:
        limit_bytes: Sum of the sizes kept.
        size: Bytes of a value.
    """

    def __init__(self, limit_bytes: int, size: Callable[[V], int]) -> None:
        self._limit = limit_bytes
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of ``key``, made now if it is not kept."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        value = self._items[key] = make()
        self.nbytes += self._size(value)
        while self.nbytes > self._limit and len(self._items) > 1:
            _, dropped = self._items.popitem(last=False)
            self.nbytes -= self._size(dropped)
        return value


class PromptStore:
    """Turns blends of texts into what cross-attention reads.

    Args:
        text: The text encoder.
        prompt_kv: The network's preparation of an embedding ``[1, P, text_dim]``.
        limit_bytes: Of each of the two caches.
    """

    def __init__(
        self, text: TextEncoder, prompt_kv: Callable[[Tensor], PromptKV], limit_bytes: int
    ) -> None:
        self._text = text
        self._prompt_kv = prompt_kv
        self._embeddings: ByteCache[str, Tensor] = ByteCache(limit_bytes, lambda x: x.nbytes)
        self._prepared: ByteCache[Prompts, PromptKV] = ByteCache(limit_bytes, kv_bytes)

    @torch.inference_mode()
    def get(self, mix: Prompts) -> PromptKV:
        """Return the keys and values of a blend, batch size 1."""
        return self._prepared.get(mix, lambda: self._prompt_kv(self._embed(mix)))

    def _embed(self, mix: Prompts) -> Tensor:
        def one(text: str) -> Tensor:
            return self._embeddings.get(text, lambda: self._text.encode([text]))

        if len(mix) == 1:
            return one(mix[0].text)
        total = sum(one(part.text).float() * part.weight for part in mix)
        assert isinstance(total, Tensor)
        return total


def kv_bytes(prompt: PromptKV) -> int:
    """Return the bytes of a prepared prompt."""
    tensors = (*prompt.k, *prompt.v, *prompt.image_k, *prompt.image_v)
    return sum(tensor.nbytes for tensor in tensors)
