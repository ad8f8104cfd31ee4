"""Codecs and text encoder against diffusers and transformers on the same random weights.

Widths are drawn anew in every run; the seed is printed, and ``LONGTAKE_ORACLE_SEED`` repeats one.
"""

import os
import random
import warnings

import pytest
import torch

from models.checkpoint import Weights, renamed
from models.codec_names import umt5_from_transformers, vae_from_diffusers
from models.text_encoder import UMT5, TextEncoderConfig
from models.vae import LATENT_MEAN, LATENT_STD, VaeConfig, WanVae

pytestmark = pytest.mark.filterwarnings("ignore")
SEED = int(os.environ.get("LONGTAKE_ORACLE_SEED") or random.SystemRandom().randrange(2**31))


@pytest.fixture
def draw():
    print(f"LONGTAKE_ORACLE_SEED={SEED}")
    torch.manual_seed(SEED)
    return random.Random(SEED)


def load_renamed(module, state, rename):
    weights = renamed(Weights(state, "oracle"), rename)
    module.load_state_dict(dict(weights.tensors), strict=True)
    return module.eval()


def roughen(module):
    """Give every parameter a value that shows when it is left out."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() <= 1 or "gamma" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


@torch.no_grad()
def test_the_vae_equals_diffusers_both_ways(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKLWan

    dim = draw.choice([4, 6, 8])
    blocks = draw.choice([1, 2, 3])
    height, width = 16 * draw.randint(1, 2), 16 * draw.randint(1, 3)
    latent_frames = draw.randint(2, 4)
    oracle = roughen(AutoencoderKLWan(base_dim=dim, z_dim=16, num_res_blocks=blocks))
    ours = load_renamed(
        WanVae(VaeConfig(dim=dim, blocks=blocks)),
        oracle.state_dict(),
        lambda name: vae_from_diffusers(name, blocks),
    )
    assert oracle.config.latents_mean == pytest.approx(LATENT_MEAN)
    assert oracle.config.latents_std == pytest.approx(LATENT_STD)
    mean, std = (torch.tensor(v).view(1, 16, 1, 1, 1) for v in (LATENT_MEAN, LATENT_STD))

    pixels = torch.rand(1, 3, 4 * latent_frames - 3, height, width) * 2 - 1
    expected = (oracle.encode(pixels).latent_dist.mode() - mean) / std
    latents, _ = ours.encode(pixels.transpose(1, 2))
    torch.testing.assert_close(latents.transpose(1, 2), expected, atol=5e-5, rtol=0)

    latents = torch.randn(1, latent_frames, 16, height // 8, width // 8)
    expected = oracle.decode(latents.transpose(1, 2) * std + mean).sample
    decoded, _ = ours.decode(latents)
    assert (decoded.abs() < 1).float().mean() > 0.2  # the clamp must not hide differences
    torch.testing.assert_close(decoded.transpose(1, 2), expected, atol=5e-5, rtol=0)


@torch.no_grad()
def test_the_text_encoder_equals_transformers(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import UMT5Config, UMT5EncoderModel

    heads, head_dim = draw.randint(1, 4), 2 * draw.randint(2, 8)
    config = TextEncoderConfig(
        vocab_size=draw.randint(50, 200),
        dim=4 * draw.randint(4, 12),
        dim_attn=heads * head_dim,
        dim_ffn=draw.randint(8, 64),
        num_heads=heads,
        num_layers=draw.randint(1, 4),
        text_len=draw.randint(130, 200),
    )
    oracle = roughen(
        UMT5EncoderModel(
            UMT5Config(
                vocab_size=config.vocab_size,
                d_model=config.dim,
                d_kv=head_dim,
                d_ff=config.dim_ffn,
                num_layers=config.num_layers,
                num_heads=heads,
            )
        )
    )
    ours = load_renamed(UMT5(config), oracle.state_dict(), umt5_from_transformers)
    ids = torch.randint(2, config.vocab_size, (3, config.text_len))
    lengths = torch.tensor([1, draw.randint(2, config.text_len - 1), config.text_len])
    mask = (torch.arange(config.text_len)[None] < lengths[:, None]).long()
    expected = oracle(input_ids=ids * mask, attention_mask=mask).last_hidden_state
    expected = expected * mask[..., None]
    torch.testing.assert_close(ours(ids * mask, mask), expected, atol=5e-5, rtol=0)
