"""Renaming to diffusers and back, and configurations of both formats."""

import pytest
import torch

from models.config import TransformerConfig
from models.names import config_from_diffusers, config_from_wan, from_diffusers, to_diffusers
from models.transformer import CausalWan


@pytest.mark.parametrize("image_dim", [None, 24])
def test_every_parameter_has_one_name_in_each_format(image_dim):
    with torch.device("meta"):
        network = CausalWan(TransformerConfig(32, 48, 2, 2, image_dim=image_dim))
    ours = list(network.state_dict())
    theirs = [to_diffusers(name) for name in ours]
    assert None not in theirs
    assert len(set(theirs)) == len(ours)
    assert [from_diffusers(name) for name in theirs] == ours


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blocks.7.norm3.weight", "blocks.7.norm2.weight"),
        ("blocks.12.cross_attn.o.bias", "blocks.12.attn2.to_out.0.bias"),
        ("blocks.0.modulation", "blocks.0.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
    ],
)
def test_published_renames_hold(ours, theirs):
    assert to_diffusers(ours) == theirs
    assert from_diffusers(theirs) == ours


@pytest.mark.parametrize("name", ["blocks.0.norm3.weight", "proj_in.weight", "", "blocks.x.ffn"])
def test_a_name_of_another_network_is_refused(name):
    assert from_diffusers(name) is None


def test_both_configurations_of_the_small_release_mean_the_same():
    wan = {
        "model_type": "t2v",
        "dim": 1536,
        "ffn_dim": 8960,
        "freq_dim": 256,
        "in_dim": 16,
        "num_heads": 12,
        "num_layers": 30,
        "out_dim": 16,
        "text_len": 512,
        "eps": 1e-6,
    }
    diffusers = {
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "ffn_dim": 8960,
        "num_layers": 30,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "patch_size": [1, 2, 2],
        "eps": 1e-6,
        "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
        "image_dim": None,
    }
    assert config_from_wan(wan) == config_from_diffusers(diffusers)
    assert config_from_wan(wan) == TransformerConfig(1536, 8960, 12, 30)


def test_an_image_model_without_a_width_has_that_of_clip():
    raw = {"model_type": "i2v", "dim": 32, "ffn_dim": 8, "num_heads": 2, "num_layers": 1}
    assert config_from_wan({**raw, "in_dim": 36}).image_dim == 1280


def test_settings_that_change_the_network_are_refused():
    raw = {"dim": 32, "ffn_dim": 8, "num_heads": 2, "num_layers": 1, "qk_norm": False}
    with pytest.raises(ValueError, match="qk_norm is false"):
        config_from_wan(raw)
    with pytest.raises(ValueError, match="qk_norm is 'layer'"):
        config_from_diffusers({"qk_norm": "layer"})
    with pytest.raises(ValueError, match="pos_embed_seq_len is 514"):
        config_from_diffusers({"pos_embed_seq_len": 514})
