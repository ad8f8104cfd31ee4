import threading

import pytest
import torch

from engine.asked import PromptPart
from engine.prompts import ByteCache, Embedding, PromptStore, kv_bytes
from tests.fakes_engine import FakeNetwork, FakeText


def store(limit_bytes=1 << 20):
    text, network = FakeText(), FakeNetwork()
    made = []

    def prompt_kv(context):
        made.append(context)
        return network.prompt_kv(context)

    return PromptStore(text, prompt_kv, limit_bytes), text, made


def test_a_text_is_encoded_and_a_blend_prepared_once():
    prompts, text, made = store()
    blend = (PromptPart("a", 0.5), PromptPart("b", 0.5))
    for _ in range(3):
        prompts.get((PromptPart("a"),))
        prompts.get(blend)
    assert text.encoded == ["a", "b"]
    assert len(made) == 2


def test_a_blend_is_the_weighted_sum_of_its_embeddings():
    prompts, text, made = store()
    a, b = text.encode(["a"]), text.encode(["b"])
    prompts.get((PromptPart("a", 0.75), PromptPart("b", 0.25)))
    torch.testing.assert_close(made[0], 0.75 * a + 0.25 * b)
    prompts.get((PromptPart("a", 1.0),))
    assert torch.equal(made[1], a)


def test_texts_that_clean_to_the_same_words_share_one_embedding():
    prompts, text, made = store()
    for words in ("a red ball", "a  red ball ", "a red\nball"):
        prompts.get((PromptPart(words),))
    assert text.encoded == ["a red ball"]
    assert all(torch.equal(context, made[0]) for context in made)


@pytest.mark.parametrize("words", [0, 3, 12])
def test_an_embedding_is_kept_without_the_zeros_behind_its_end(words):
    padded = torch.zeros(1, 12, 16, dtype=torch.bfloat16)
    padded[:, :words] = torch.randn(words, 16, generator=torch.Generator().manual_seed(0))
    kept = Embedding.of(padded)
    assert kept.rows.untyped_storage().nbytes() == words * 16 * 2
    assert torch.equal(kept.padded(), padded)


def test_memory_is_bounded_and_the_least_recently_used_goes_first():
    prompts, text, _ = store()
    size = kv_bytes(prompts.get((PromptPart("a"),)))
    prompts, text, _ = store(size)
    for name in "abca":
        prompts.get((PromptPart(name),))
    assert text.encoded == ["a", "b", "c", "a"]
    cache = ByteCache(10, lambda value: value)
    for key, value in [("x", 4), ("y", 4), ("x", 4), ("z", 4), ("big", 50)]:
        cache.get(key, lambda value=value: value)
    assert cache.get("big", lambda: 0) == 50
    assert len(cache) == 1
    assert cache.nbytes == 50


def test_texts_are_embedded_ahead_on_a_thread_that_ends_with_the_store():
    text, threads = FakeText(), []
    encode = text.encode

    def noting(texts):
        threads.append(threading.current_thread())
        return encode(texts)

    text.encode = noting
    prompts = PromptStore(text, FakeNetwork().prompt_kv, 1 << 20, ahead_on=torch.device("cpu"))
    prompts.request(["a"])
    prompts.get((PromptPart("a"),))
    assert threads[0] is not threading.current_thread()
    prompts.close()
    assert not threads[0].is_alive()
    assert text.encoded == ["a"]
