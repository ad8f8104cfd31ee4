"""Captions: true, varied, and with phrasings kept for tests."""

import numpy as np
import pytest

from models.tokenizer import SentencePieceTokenizer, token_ids
from models.train import captions
from models.train.captions import caption, caption_batch, corpus, describe, train_tokenizer
from models.train.world_scene import ATTRIBUTES, NAMES, draw_scenes, sample_scene

TEXT_LEN = 48
MENTIONS = {
    "place": captions._PLACES,
    "time": captions._TIMES,
    "subject": captions._SUBJECTS,
    "colour": captions._COLOURS,
    "camera": captions._CAMERAS,
}


def mentions(text: str, name: str, value: str) -> bool:
    words = list(MENTIONS[name][value])
    words += [captions._TAGS[name][value]] if name in captions._TAGS else []
    return any(word in text.lower() for word in words)


def test_the_same_seed_gives_the_same_captions():
    assert list(corpus(300, 7)) == list(corpus(300, 7))
    assert list(corpus(300, 7)) != list(corpus(300, 8))


def test_captions_say_what_they_state_and_nothing_else():
    generator = np.random.default_rng(1)
    for scene in draw_scenes(generator, 300, "any"):
        said = caption(scene, generator)
        for name in MENTIONS:
            assert mentions(said.text, name, getattr(scene, name)) == (name in said.stated), said


def test_every_attribute_is_omitted_sometimes_and_stated_mostly():
    generator = np.random.default_rng(2)
    said = [caption(scene, generator).stated for scene in draw_scenes(generator, 600)]
    for name in NAMES:
        share = sum(name in stated for stated in said) / len(said)
        assert 0.4 < share < 0.99, name


def test_held_out_phrases_and_orders_never_occur_in_training():
    unseen = [phrase for forms in captions._MOTIONS.values() for phrase in forms[2]]
    trained = [text.lower() for text in corpus(3000)]
    assert not any(phrase in text for phrase in unseen for text in trained)
    assert not set(captions._ORDERS) & set(captions._HELD_OUT_ORDERS)
    generator = np.random.default_rng(3)
    held_out = [
        describe(sample_scene(seed).attributes(), NAMES, generator, "held_out").text.lower()
        for seed in range(100)
    ]
    assert not set(held_out) & set(trained)


def test_words_of_held_out_phrases_are_words_of_training():
    known = {word.strip(".,:;").lower() for text in corpus(5000) for word in text.split()}
    unseen = {w for forms in captions._MOTIONS.values() for p in forms[2] for w in p.split()}
    assert unseen <= known


def test_every_value_has_words():
    for table in (*MENTIONS.values(), captions._WEATHERS, captions._MOTIONS):
        assert any(set(table) == set(values) for values in ATTRIBUTES.values())


def test_a_caption_without_subject_has_no_colour_and_an_empty_one_is_refused():
    scene = sample_scene(3).attributes()
    said = describe(scene, ("colour", "place"), np.random.default_rng(0))
    assert said.stated == ("place",)
    with pytest.raises(ValueError, match="nothing to say"):
        describe(scene, ("colour",), np.random.default_rng(0))


def test_the_tokenizer_fits_captions_in_the_models_text_length_and_knows_any_word(tmp_path):
    path = tmp_path / "run" / "tokenizer.model"
    train_tokenizer(path, captions=4000)
    tokenizer = SentencePieceTokenizer.from_file(path)
    assert tokenizer.vocab_size <= 512
    generator = np.random.default_rng(9)
    texts = [made.text for made in caption_batch(draw_scenes(generator, 1000), generator)]
    lengths = [len(tokenizer.split(text)) + 1 for text in texts]
    assert max(lengths) <= TEXT_LEN
    ids, _ = token_ids(tokenizer, ["a zebra dances über Straßen ☂"], TEXT_LEN)
    assert 2 not in ids[0].tolist()
    assert list(path.parent.iterdir()) == [path]
