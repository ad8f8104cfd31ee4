"""Prompt text to token ids: cleaning, sentencepiece, end mark, padding.

Follows Wan's text path: repair the text (ftfy), unescape HTML twice, collapse white
space, tokenise, append the end mark, truncate and pad with id 0. Knows nothing of
the text encoder's weights. A token is always text here: a prompt that spells out a
special token (``</s>``) is tokenised as plain characters.
"""

import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import torch
from torch import Tensor

PAD_ID = 0
END_ID = 1


class Tokenizer(Protocol):
    """Splits cleaned text into ids, without end mark and padding."""

    @property
    def vocab_size(self) -> int:
        """Smallest embedding table that holds every id."""

    def split(self, text: str) -> list[int]:
        """Return the ids of ``text``."""


class SentencePieceTokenizer:
    """A sentencepiece model file, such as ``google/umt5-xxl/spiece.model``.

    Args:
        model: the file's bytes.
        source: where they came from, for error messages.
    """

    def __init__(self, model: bytes, source: str) -> None:
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(
                f"{source} is not a sentencepiece model ({len(model)} bytes); "
                "fetch the tokenizer file again"
            ) from error
        if processor.eos_id() != END_ID or processor.pad_id() not in (PAD_ID, -1):
            raise ValueError(
                f"{source} has end mark {processor.eos_id()} and padding {processor.pad_id()}; "
                f"the family uses {END_ID} and {PAD_ID}; this tokenizer is of another model"
            )
        self._processor = processor

    @classmethod
    def from_file(cls, path: Path) -> "SentencePieceTokenizer":
        """Load a sentencepiece model file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a sentencepiece model of this family.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {path}; a sentencepiece model file is needed; fetch the model again"
            )
        return cls(path.read_bytes(), str(path))

    @property
    def vocab_size(self) -> int:
        """Number of pieces in the model."""
        return int(self._processor.vocab_size())

    def split(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        return list(self._processor.EncodeAsIds(text))


class ByteTokenizer:
    """One token per UTF-8 byte; needs no file. For random weights and tests."""

    _FIRST = 3

    @property
    def vocab_size(self) -> int:
        """Padding, end mark, unknown and 256 bytes."""
        return self._FIRST + 256

    def split(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        return [self._FIRST + byte for byte in text.encode()]


def clean(text: str) -> str:
    """Repair encodings, unescape HTML and collapse white space."""
    # Plain ASCII has nothing to repair, so that benchmarks and device tests run without ftfy.
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def token_ids(
    tokenizer: Tokenizer, texts: Sequence[str], text_len: int, *, trim: bool = False
) -> tuple[Tensor, Tensor]:
    """Tokenise a batch of prompts.

    Args:
        tokenizer: splits the text.
        texts: B prompts, not yet cleaned.
        text_len: row length P; longer prompts lose their tail, never the end mark.
        trim: stop at the longest row of the batch instead of ``text_len``. Padding is
            never attended to, so the rows that remain have the same embeddings.

    Returns:
        ``ids`` and ``mask`` (1 = text, 0 = padding), int64 ``[B, P]``, on the CPU.
    """
    rows = [[*tokenizer.split(clean(text))[: text_len - 1], END_ID] for text in texts]
    length = max((len(row) for row in rows), default=1) if trim else text_len
    ids = torch.full((len(rows), length), PAD_ID, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a unigram sentencepiece model with byte fallback.

    Args:
        texts: sentences; cleaned before use.
        vocab_size: an upper limit; a small corpus yields fewer pieces.

    Returns:
        The model file's bytes, for ``SentencePieceTokenizer`` and ``tokenizer.model``.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([clean(text) for text in texts]),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        model_type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=PAD_ID,
        eos_id=END_ID,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
