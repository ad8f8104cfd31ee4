"""Renaming to diffusers and back."""

import pytest
import torch

from models.config import TransformerConfig
from models.names import from_diffusers
from models.transformer import CausalWan
from tests.models.diffusers_names import to_diffusers


@pytest.mark.parametrize("image_dim", [None, 24])
def test_every_parameter_has_one_name_in_each_format(image_dim):
    with torch.device("meta"):
        network = CausalWan(TransformerConfig(32, 48, 2, 2, image_dim=image_dim))
    ours = list(network.state_dict())
    theirs = [to_diffusers(name) for name in ours]
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
