"""Embeddings of texts and keys of blends, kept across sessions by content.

The embedding of a blend is the weighted sum of its texts' embeddings, as Krea Realtime's
transitions do; the network turns it into keys and values once. Texts that clean to the same words
share one embedding, and of each only the rows up to its end are kept, which are few. Both caches
forget what was used longest ago when they exceed their bytes; a session keeps what it is using by
a reference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from engine.asked import Prompts
from engine.config import make_current
from models.interface import TextEncoder
from models.tokenizer import clean
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

    def __contains__(self, key: K) -> bool:
        return key in self._items

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


class Embedding(NamedTuple):
    """A text's embedding without the zeros behind its end.

    Attributes:
        rows: ``[1, R, text_dim]``.
        length: rows P with the zeros.
    """

    rows: Tensor
    length: int

    @classmethod
    def of(cls, padded: Tensor) -> Embedding:
        """Copy the rows of ``padded [1, P, text_dim]`` up to the last that is not zero.

        On a GPU all of them are kept: to look for the last one would wait for the device.
        """
        if padded.is_cuda:
            return cls(padded, padded.shape[1])
        (used,) = padded[0].any(-1).nonzero(as_tuple=True)
        end = int(used[-1]) + 1 if len(used) else 0
        return cls(padded[:, :end].clone(), padded.shape[1])

    def padded(self) -> Tensor:
        """Return ``[1, P, text_dim]``."""
        return functional.pad(self.rows, (0, 0, 0, self.length - self.rows.shape[1]))


class PromptStore:
    """Turns blends of texts into what cross-attention reads.

    Args:
        text: The text encoder.
        prompt_kv: The network's preparation of an embedding ``[1, P, text_dim]``.
        limit_bytes: Of each of the two caches.
        ahead_on: Embed texts ahead, on a thread of its own for this device; None embeds them when
            they are needed.
    """

    def __init__(
        self,
        text: TextEncoder,
        prompt_kv: Callable[[Tensor], PromptKV],
        limit_bytes: int,
        ahead_on: torch.device | None = None,
    ) -> None:
        self._text = text
        self._prompt_kv = prompt_kv
        self._embeddings: ByteCache[str, Embedding] = ByteCache(
            limit_bytes, lambda embedding: embedding.rows.nbytes
        )
        self._executor: ThreadPoolExecutor | None = None
        if ahead_on is not None:
            self._executor = ThreadPoolExecutor(1, "text-encoder", make_current, (ahead_on,))
        self._asked: dict[str, Future[Embedding]] = {}
        self._prepared: ByteCache[Prompts, PromptKV] = ByteCache(limit_bytes, kv_bytes)

    def request(self, texts: Iterable[str]) -> None:
        """Start to embed texts ahead, where there is a thread for it."""
        if self._executor is None:
            return
        # What nobody came back for moves to the cache, which is bounded.
        for text, asked in list(self._asked.items()):
            if asked.done():
                del self._asked[text]
                if asked.exception() is None:
                    self._embeddings.get(clean(text), asked.result)
        for text in texts:
            if text not in self._asked and clean(text) not in self._embeddings:
                self._asked[text] = self._executor.submit(self._encode, text)

    def ready(self, texts: Iterable[str]) -> bool:
        """Whether ``get`` of a blend of ``texts`` would not wait for the text encoder."""
        return all(text not in self._asked or self._asked[text].done() for text in texts)

    @torch.inference_mode()
    def get(self, mix: Prompts) -> PromptKV:
        """Return the keys and values of a blend, batch size 1."""
        return self._prepared.get(mix, lambda: self._prompt_kv(self._embed(mix)))

    def close(self) -> None:
        """End the thread; texts that it has not begun are dropped."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _encode(self, text: str) -> Embedding:
        return Embedding.of(self._text.encode([text]))

    def _embed(self, mix: Prompts) -> Tensor:
        def one(text: str) -> Tensor:
            asked = self._asked.pop(text, None)
            make = (lambda: self._encode(text)) if asked is None else asked.result
            return self._embeddings.get(clean(text), make).padded()

        if len(mix) == 1:
            return one(mix[0].text)
        total = sum(one(part.text).float() * part.weight for part in mix)
        assert isinstance(total, Tensor)
        return total


def kv_bytes(prompt: PromptKV) -> int:
    """Return the bytes of a prepared prompt."""
    tensors = (*prompt.k, *prompt.v, *prompt.image_k, *prompt.image_v)
    return sum(tensor.nbytes for tensor in tensors)
