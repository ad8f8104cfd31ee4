"""Loading: each published format, by name, through the same code; bad files end in one error."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from models import card as cards
from models import loading
from models.card import CARD, card_of, read_card, shipped
from models.checkpoint import CheckpointError, Weights
from models.loading import load_model
from models.registry import LONGTAKE_TINY, find
from models.taehv import Taehv
from models.vae import WanVae
from tests.models import formats

SELF_FORCING = "wan2.1-1.3b-self-forcing"


@pytest.fixture
def small(monkeypatch):
    """Let the loader find shrunk entries under the real names."""

    def find_small(name):
        return find(name) if name == "longtake-tiny" else formats.shrunk(name)

    monkeypatch.setattr(loading, "find", find_small)
    monkeypatch.setattr(cards, "find", find_small)
    return find_small


@pytest.fixture
def cache(tmp_path, small):
    """A cache folder with everything but the transformers."""
    formats.write_shared_parts(small(SELF_FORCING), tmp_path)
    return tmp_path


def assert_same(module, weights):
    if isinstance(module, Taehv):  # laid out for serving: so is what it is compared with
        plain = Taehv(module.config)
        plain.load_state_dict(plain.adapt(Weights(dict(weights), "expected")).tensors)
        plain.lay_out()
        weights = plain.state_dict()
    state = module.state_dict()
    assert set(state) == set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-6)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("style", ["plain", "model", "fsdp"])
@pytest.mark.parametrize(
    "name",
    [
        SELF_FORCING,
        "wan2.1-1.3b-causvid",
        "causal-forcing-chunkwise",
        "causal-forcing-framewise-2step",
    ],
)
def test_self_forcing_style_pickles_load_under_any_wrapping(name, style, cache, small):
    entry = small(name)
    weights = formats.transformer_weights()
    wanted, other = entry.checkpoint.keys[:2]
    wrong = formats.wrapped(formats.transformer_weights(99), style)
    tree = {other: wrong, wanted: formats.wrapped(weights, style), "step": 600}
    torch.save(tree, formats.place(entry.checkpoint.file, cache))
    model = load_model(name, cache_dir=cache)
    assert_same(model.transformer, weights)
    assert_same(model.text.encoder.network, formats.text_weights())
    assert_same(model.codec, formats.taehv_weights())
    assert isinstance(model.codec, Taehv)


@pytest.mark.parametrize("key", ["generator_ema", "generator", "model"])
def test_the_state_dict_is_found_under_whichever_key_there_is(key, cache, small):
    weights = formats.transformer_weights()
    path = formats.place(small(SELF_FORCING).checkpoint.file, cache)
    torch.save({key: formats.wrapped(weights, "model")}, path)
    assert_same(load_model(SELF_FORCING, cache_dir=cache).transformer, weights)


def test_longlive_is_its_base_with_the_lora_merged(cache, small):
    entry = small("longlive-1.3b")
    weights = formats.transformer_weights()
    peft, merged = formats.lora_pair(weights, rank=4)
    torch.save(
        {"generator": formats.wrapped(weights, "model")},
        formats.place(entry.checkpoint.file, cache),
    )
    torch.save({"generator_lora": peft}, formats.place(entry.lora.file, cache))
    assert len(peft) == 2 * 10 * formats.SMALL.num_layers
    model = load_model("longlive-1.3b", cache_dir=cache)
    assert_same(model.transformer, merged)
    other = load_model("longlive-1.3b-infinity", cache_dir=cache)
    assert_same(other.transformer, merged)
    assert other.entry.cache.rope == "window"


def test_krea_is_one_flat_safetensors_file(cache, small):
    entry = small("krea-realtime-14b")
    weights = formats.transformer_weights()
    halves = {name: t.bfloat16() for name, t in formats.wrapped(weights, "model").items()}
    save_file(halves, formats.place(entry.checkpoint.file, cache))
    model = load_model("krea-realtime-14b", cache_dir=cache, codec="wan-vae")
    assert_same(model.transformer, weights)
    assert_same(model.codec, formats.vae_weights())
    assert model.entry.codec.name == "wan-vae"


def test_a_diffusers_folder_gives_transformer_vae_text_encoder_and_tokenizer(tmp_path, small):
    folder = tmp_path / "pipeline"
    folder.mkdir()
    formats.write_diffusers_folder(folder)
    model = load_model(f"{SELF_FORCING}@{folder}", cache_dir=tmp_path / "empty", codec="wan-vae")
    assert_same(model.transformer, formats.transformer_weights(21))
    assert_same(model.text.encoder.network, formats.text_weights(22))
    assert_same(model.codec, formats.vae_weights(23))
    assert isinstance(model.codec, WanVae)
    assert model.text.encode(["a red ball"]).shape == (1, 12, 16)


def test_other_weights_of_a_known_kind_load_by_path(cache, tmp_path):
    weights = formats.transformer_weights(31)
    torch.save({"generator": formats.wrapped(weights, "model")}, tmp_path / "mine.pt")
    model = load_model(f"{SELF_FORCING}@{tmp_path / 'mine.pt'}", cache_dir=cache)
    assert_same(model.transformer, weights)


def test_weights_arrive_in_the_dtype_asked_for_and_outlive_their_file(cache, small):
    path = formats.place(small(SELF_FORCING).checkpoint.file, cache)
    weights = formats.transformer_weights()
    torch.save({"generator": weights}, path)
    model = load_model(SELF_FORCING, cache_dir=cache, dtype=torch.bfloat16)
    dtypes = {p.dtype for p in model.transformer.parameters()}
    dtypes |= {p.dtype for p in model.codec.parameters()}
    assert dtypes == {torch.bfloat16}
    assert model.dtype == torch.bfloat16
    path.write_bytes(b"\0" * path.stat().st_size)
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(tensor, weights[name].bfloat16())


def test_a_missing_file_is_named_with_the_command_that_fetches_it(cache):
    with pytest.raises(
        CheckpointError, match=r"self_forcing_dmd\.pt does not exist; run `python -m server fetch"
    ):
        load_model(SELF_FORCING, cache_dir=cache)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("blocks.1.ffn.0.weight"), r"missing: blocks\.1\.ffn\.0\.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda w: w.update({"head.head.bias": torch.zeros(3)}),
            r"wrong shape: head\.head\.bias \(3,\) where \(64,\) is needed",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_its_file(change, told, cache, small):
    weights = formats.transformer_weights()
    change(weights)
    path = formats.place(small(SELF_FORCING).checkpoint.file, cache)
    torch.save({"generator": formats.wrapped(weights, "model")}, path)
    with pytest.raises(CheckpointError, match=told) as error:
        load_model(SELF_FORCING, cache_dir=cache)
    assert f"{path}[generator]" in str(error.value)


def test_a_lora_of_another_model_is_refused(cache, small):
    entry = small("longlive-1.3b")
    weights = formats.transformer_weights()
    torch.save(weights, formats.place(entry.checkpoint.file, cache))
    peft = {
        "base_model.model.blocks.0.ffn.0.lora_A.weight": torch.zeros(2, 99),
        "base_model.model.blocks.0.ffn.0.lora_B.weight": torch.zeros(48, 2),
    }
    torch.save(peft, formats.place(entry.lora.file, cache))
    with pytest.raises(CheckpointError, match=r"lora\.pt: LoRA of blocks\.0\.ffn\.0\.weight is"):
        load_model("longlive-1.3b", cache_dir=cache)


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_a_missing_or_damaged_tokenizer_is_one_error(content, cache, small):
    path = small(SELF_FORCING).tokenizer.local(cache)
    torch.save(
        formats.transformer_weights(), formats.place(small(SELF_FORCING).checkpoint.file, cache)
    )
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"spiece\.model"):
        load_model(SELF_FORCING, cache_dir=cache)


def write_project_folder(folder, entry, parts=("transformer", "codec", "text", "tokenizer")):
    folder.mkdir(exist_ok=True)
    if "transformer" in parts:
        save_file(formats.transformer_weights(41), folder / "transformer.safetensors")
    if "codec" in parts:
        save_file(formats.taehv_weights(42), folder / "codec.safetensors")
    if "text" in parts:
        save_file(formats.text_weights(43), folder / "text.safetensors")
    if "tokenizer" in parts:
        tokenizer = formats.train_tokenizer(formats.CORPUS, 400)
        (folder / "tokenizer.model").write_bytes(tokenizer)
    (folder / CARD).write_text(json.dumps(card_of(entry)))


def small_bundled():
    entry = formats.shrunk(SELF_FORCING)
    return dataclasses.replace(
        LONGTAKE_TINY,
        transformer=entry.transformer,
        text=entry.text,
        codecs=(dataclasses.replace(LONGTAKE_TINY.codec, config=formats.SMALL_TAEHV),),
    )


def test_the_bundled_model_loads_from_its_folder_at_the_widths_of_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    write_project_folder(tmp_path / "longtake-tiny", small_bundled())
    model = load_model("longtake-tiny")
    assert model.entry.transformer == formats.SMALL
    assert_same(model.transformer, formats.transformer_weights(41))
    assert_same(model.codec, formats.taehv_weights(42))
    assert_same(model.text.encoder.network, formats.text_weights(43))


def test_other_weights_of_the_bundled_kind_load_by_path(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    write_project_folder(tmp_path / "longtake-tiny", small_bundled())
    save_file(formats.transformer_weights(51), tmp_path / "mine.safetensors")
    model = load_model(f"longtake-tiny@{tmp_path / 'mine.safetensors'}")
    assert_same(model.transformer, formats.transformer_weights(51))
    assert_same(model.codec, formats.taehv_weights(42))
    with pytest.raises(CheckpointError, match=r"no\.pt does not exist"):
        load_model(f"longtake-tiny@{tmp_path / 'no.pt'}")


def test_a_folder_in_the_projects_layout_loads_by_path(tmp_path):
    write_project_folder(tmp_path / "mine", small_bundled())
    model = load_model(str(tmp_path / "mine"))
    assert_same(model.transformer, formats.transformer_weights(41))


def test_a_folder_with_only_a_transformer_takes_the_rest_from_the_cache(tmp_path, cache, small):
    write_project_folder(tmp_path / "mine", small(SELF_FORCING), parts=("transformer",))
    model = load_model(str(tmp_path / "mine"), cache_dir=cache)
    assert_same(model.transformer, formats.transformer_weights(41))
    assert_same(model.codec, formats.taehv_weights())


def test_an_incomplete_bundled_folder_names_what_it_lacks(tmp_path):
    write_project_folder(tmp_path / "mine", small_bundled(), parts=("transformer", "codec"))
    with pytest.raises(CheckpointError, match=r"lacks text\.safetensors"):
        load_model(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"model": "no-such"}', '{"model": "longtake-tiny", "fps": []}']
)
def test_a_damaged_card_is_one_error(tmp_path, text):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=r"card\.json does not describe a model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", ["longtake-tiny", "krea-realtime-14b", "longlive-1.3b-infinity"])
def test_a_card_gives_its_entry_back(tmp_path, name):
    entry = find(name)
    (tmp_path / CARD).write_text(json.dumps(card_of(entry)))
    assert read_card(tmp_path / CARD) == entry


def test_a_folder_without_a_card_says_how_to_load_it(tmp_path):
    with pytest.raises(CheckpointError, match="say NAME@"):
        load_model(str(tmp_path))


def test_an_unknown_model_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="known are longtake-tiny"):
        load_model("no-such-model", cache_dir=tmp_path)


def test_random_weights_need_no_file():
    model = load_model("longtake-tiny", random_weights=True)
    assert model.transformer.config == shipped(LONGTAKE_TINY).transformer
    with torch.inference_mode():
        assert model.text.encode(["a red ball"]).shape == (1, 48, 192)


def test_random_weights_come_with_the_codec_and_the_text_encoder_s_place_asked_for(small):
    model = load_model(SELF_FORCING, random_weights=True, codec="wan-vae", text_placement="offload")
    assert model.entry.codec.name == "wan-vae"
    assert isinstance(model.codec, WanVae)
    assert model.text.placement == "offload"


@pytest.mark.parametrize("usual", [None, 2])
def test_a_card_says_the_usual_steps_only_where_there_are_some(tmp_path, usual):
    sampler = dataclasses.replace(LONGTAKE_TINY.sampler, usual_steps=usual)
    entry = dataclasses.replace(LONGTAKE_TINY, sampler=sampler)
    card = card_of(entry)
    assert ("usual_steps" in card["sampler"]) == (usual is not None)
    (tmp_path / CARD).write_text(json.dumps(card))
    assert read_card(tmp_path / CARD).sampler == sampler
