"""Sizes that cannot be are refused with what to do."""

import pytest

from models.config import TransformerConfig


def test_a_latent_divides_into_patches():
    config = TransformerConfig(32, 48, 2, 1)
    assert config.head_dim == 16
    assert config.grid(60, 104) == (30, 52)
    assert config.grid_of((832, 480)) == (30, 52)
    with pytest.raises(ValueError, match="latent of 61x104; height must be a multiple of 2"):
        config.grid(61, 104)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 33}, "dim 33 with 2 heads"),
        ({"dim": 34}, "even size"),
        ({"patch": (2, 2, 2)}, "a token belongs to one latent frame"),
        ({"freq_dim": 7}, "must be even"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    sizes = {"dim": 32, "ffn_dim": 48, "num_heads": 2, "num_layers": 1, **changes}
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**sizes)
