"""Tokenising prompts: cleaning, end mark, truncation, padding, bytes for rare characters."""

import io
import re

import ftfy
import pytest
import sentencepiece
import torch

from models.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    clean,
    token_ids,
    train_tokenizer,
)

CORPUS = ["a red ball rolls left", "the blue cat jumps right", "a green box turns slowly"] * 4


@pytest.fixture(scope="module")
def model():
    return train_tokenizer(CORPUS, 400)


@pytest.mark.parametrize(
    ("seen", "cleaned"),
    [
        ("  a\n red \t ball ", "a red ball"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("&lt;b&gt;", "<b>"),
        ("schÃ¶n", "schön"),
        ("", ""),
    ],
)
def test_text_is_repaired_unescaped_and_collapsed(seen, cleaned):
    assert clean(seen) == cleaned


def test_plain_ascii_is_what_the_repair_leaves_alone():
    plain = "".join(map(chr, range(32, 127))).replace("&", "")
    assert ftfy.fix_text(plain) == plain
    assert clean(plain) == re.sub(r"\s+", " ", plain).strip()


def test_rows_end_with_the_end_mark_and_are_padded_with_zeros():
    ids, mask = token_ids(ByteTokenizer(), ["ab", ""], 5)
    assert ids.tolist() == [[ord("a") + 3, ord("b") + 3, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_a_long_prompt_loses_its_tail_but_not_the_end_mark():
    ids, mask = token_ids(ByteTokenizer(), ["abcdefgh"], 4)
    assert ids.tolist() == [[ord("a") + 3, ord("b") + 3, ord("c") + 3, 1]]
    assert mask.all()


def test_trimming_stops_at_the_longest_row():
    ids, _ = token_ids(ByteTokenizer(), ["ab", "abcd"], 100, trim=True)
    assert ids.shape == (2, 5)


def test_a_trained_model_round_trips_words_it_never_saw(model, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model)
    tokenizer = SentencePieceTokenizer.from_file(path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in ("a red ball", "日本 zebra", "é"):
        ids = tokenizer.split(text)
        assert 2 not in ids  # byte fallback: nothing is unknown
        assert max(ids) < tokenizer.vocab_size
        assert processor.DecodeIds(ids) == text


def test_special_tokens_in_a_prompt_are_plain_text(model):
    assert 1 not in SentencePieceTokenizer(model, "model").split("stop </s> now")


def test_a_missing_tokenizer_is_one_error_naming_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.model.*fetch the model again"):
        SentencePieceTokenizer.from_file(tmp_path / "nowhere.model")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_damaged_tokenizer_is_one_error_naming_the_path(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model is not a sentencepiece model"):
        SentencePieceTokenizer.from_file(path)


def test_a_truncated_tokenizer_is_an_error(model, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model[: len(model) // 2])
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        SentencePieceTokenizer.from_file(path)


def test_a_tokenizer_with_other_marks_is_refused():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=30, minloglevel=2
    )  # the library's defaults: end mark 2
    with pytest.raises(ValueError, match="end mark 2"):
        SentencePieceTokenizer(out.getvalue(), "other.model")
