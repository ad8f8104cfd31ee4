"""The registry: every entry consistent, published sizes, what a model needs, what is missing."""

import dataclasses

import pytest
import torch

import models.needs
from models import registry
from models.card import shipped
from models.loading import load_model
from models.needs import describe, needs, parameters
from models.text_encoder import UMT5
from models.train.recipes import tiny
from models.transformer import CausalWan
from models.vae import WanVae

REAL = [entry for entry in registry.ENTRIES if not entry.bundled]


@pytest.mark.parametrize(
    ("config", "count", "tensors"),
    [(registry.WAN_1_3B, 1_418_996_800, 825), (registry.WAN_14B, 14_288_491_584, 1095)],
)
def test_the_transformers_have_their_published_parameters_and_tensors(config, count, tensors):
    with torch.device("meta"):
        network = CausalWan(config)
    assert parameters(network) == count
    assert set(network.state_dict()) == set(wan_names(config.num_layers))
    assert len(network.state_dict()) == tensors


def wan_names(layers):
    """The original Wan names, spelled out independently of the network."""
    both = ("weight", "bias")
    linears = ["text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2"]
    linears += ["time_projection.1", "patch_embedding", "head.head"]
    singles = ["head.modulation"]
    for i in range(layers):
        block = f"blocks.{i}."
        singles.append(block + "modulation")
        linears += [block + "norm3", block + "ffn.0", block + "ffn.2"]
        for attention in ("self_attn", "cross_attn"):
            linears += [f"{block}{attention}.{part}" for part in "qkvo"]
            singles += [f"{block}{attention}.norm_{part}.weight" for part in "qk"]
    return singles + [f"{name}.{part}" for name in linears for part in both]


@pytest.mark.parametrize("entry", REAL, ids=lambda entry: entry.name)
def test_text_encoder_and_codecs_of_the_real_models_have_their_published_sizes(entry):
    with torch.device("meta"):
        assert parameters(UMT5(entry.text)) == pytest.approx(5.68e9, rel=1e-3)
        vae = WanVae(entry.codec_named("wan-vae").config)
    assert parameters(vae) == pytest.approx(126.9e6, rel=1e-3)


def test_names_are_unique_and_found():
    assert len(set(registry.names())) == len(registry.ENTRIES)
    for entry in registry.ENTRIES:
        assert registry.find(entry.name) is entry


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'wan'; known are longtake-tiny, .*krea"):
        registry.find("wan")


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_has_a_schedule_a_licence_and_whole_chunks(entry):
    for chunk in (0, 1):
        schedule = entry.sampler.schedule(None, chunk)
        assert schedule.timesteps[0] == 1000.0
    assert entry.licence
    assert entry.licence_url.startswith("https://")
    window = entry.cache.window_frames
    assert window is not None
    assert window % entry.cache.chunk_frames == 0
    if entry.start_image_frames is not None:
        # What a start image becomes must be whole chunks of latent frames.
        latents = 1 + (entry.start_image_frames - 1) // 4
        assert latents % entry.cache.chunk_frames == 0


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("wan2.1-1.3b-self-forcing", (1000.0, 937.5, 833.3333, 625.0)),
        ("wan2.1-1.3b-causvid", (1000.0, 757.0, 522.0)),
        ("causal-forcing-framewise-2step", (1000.0, 833.3333)),
        ("causal-forcing-framewise-1step", (1000.0,)),
        ("krea-realtime-14b", (1000.0, 937.5, 833.3333, 625.0, 0.0)),
    ],
)
def test_schedules_are_the_released_ones(name, timesteps):
    schedule = registry.find(name).sampler.schedule(None, 1)
    assert schedule.timesteps == pytest.approx(timesteps, rel=1e-6)


def test_the_bundled_entry_is_the_trained_recipe():
    trained, entry = tiny(), registry.LONGTAKE_TINY
    assert entry.transformer == trained.transformer
    assert entry.text == trained.text
    assert entry.codec.config == trained.codec
    assert entry.sampler == trained.sampler
    assert entry.sizes == ((trained.width, trained.height),)
    assert entry.fps == trained.fps
    assert entry.cache.window_frames == trained.window_frames
    assert entry.cache.sink_frames == trained.sink_frames
    assert entry.cache.chunk_frames == trained.chunk_frames


def test_kv_and_decoder_state_are_the_published_sizes():
    need = needs(registry.find("wan2.1-1.3b-self-forcing"), codec="wan-vae")
    assert need.kv_bytes == pytest.approx(6.04e9, rel=1e-3)
    assert need.decoder_state_bytes == pytest.approx(1.89e9, rel=1e-2)
    assert need.transformer_bytes == 2 * 1_418_996_800
    assert needs(registry.find("longlive-1.3b")).kv_bytes == pytest.approx(3.45e9, rel=1e-3)
    krea = needs(registry.find("krea-realtime-14b"))
    assert krea.kv_bytes == pytest.approx(7.7e9, rel=1e-2)


def test_streams_fit_beside_the_weights_or_not_at_all():
    need = needs(registry.find("longlive-1.3b"))
    assert need.streams(need.weights_bytes) == 0
    room = need.weights_bytes + need.text_bytes + 3 * need.session_bytes
    assert need.streams(room, spare=0.0) == 3
    assert need.streams(room - 1, spare=0.0) == 2
    # The text encoder alone takes the room of three of these streams.
    assert need.streams(room, spare=0.0, text_on_device=False) == 6


def test_a_description_says_what_is_missing_and_then_present(tmp_path):
    entry = registry.find("longlive-1.3b")
    before = describe(entry, cache_dir=tmp_path, device_bytes=80 * 10**9)
    assert not before["present"]
    assert "Efficient-Large-Model/LongLive-1.3B/models/lora.pt" in before["missing_files"]
    assert before["streams_that_fit"] == needs(entry).streams(80 * 10**9)
    for file in entry.files():
        path = file.local(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    after = describe(entry, cache_dir=tmp_path)
    assert after["present"]
    assert after["streams_that_fit"] is None


def test_the_bundled_model_is_present_when_its_weights_are(tmp_path, monkeypatch):
    monkeypatch.setattr(models.needs, "BUNDLED", tmp_path / "models" / "weights")
    entry = registry.LONGTAKE_TINY
    before = describe(entry, cache_dir=tmp_path)
    assert before["missing_files"] == ["models/weights/longtake-tiny/transformer.safetensors"]
    home = tmp_path / "models" / "weights" / entry.name
    home.mkdir(parents=True)
    (home / "transformer.safetensors").write_bytes(b"0123456789")
    after = describe(entry, cache_dir=tmp_path)
    assert after["present"]
    assert (before["disk_bytes"], after["disk_bytes"]) == (0, 10)


def test_the_bundled_model_is_described_as_it_ships(tmp_path):
    loaded = load_model("longtake-tiny", device="cpu", dtype=torch.float32)
    said = describe(shipped(registry.LONGTAKE_TINY), cache_dir=tmp_path, element_bytes=4)
    own = parameters(loaded.transformer) + parameters(loaded.codec)
    # Folding changes how a codec's weights lie, not what they are; they count as in the file.
    assert said["weights_bytes"] == pytest.approx(4 * own, rel=0.15)
    assert said["example_prompts"] == list(loaded.entry.example_prompts)
    drawn = load_model("longtake-tiny", device="cpu", dtype=torch.float32, random_weights=True)
    assert drawn.entry.transformer == loaded.entry.transformer
    assert shipped(registry.find("longlive-1.3b")) == registry.find("longlive-1.3b")


def test_an_entry_whose_parts_do_not_fit_together_is_refused():
    entry = registry.LONGTAKE_TINY
    with pytest.raises(ValueError, match="text encoder of width 64"):
        dataclasses.replace(entry, text=dataclasses.replace(entry.text, dim=64))
    with pytest.raises(ValueError, match="text encoder of 24 rows"):
        dataclasses.replace(entry, text=dataclasses.replace(entry.text, text_len=24))
    with pytest.raises(ValueError, match="multiple of 16"):
        dataclasses.replace(entry, sizes=((100, 100),))
    with pytest.raises(ValueError, match="it has taehv"):
        entry.codec_named("wan-vae")
