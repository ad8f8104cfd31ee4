"""The transformer against diffusers' at sizes drawn for each run; the seed is printed."""

import random
import secrets

import pytest
import torch

from models.config import TransformerConfig
from tests.models.diffusers_names import to_diffusers
from tests.models.wan_weights import random_transformer
from tests.parity.forward import full_pass


@pytest.fixture(params=range(2))
def seed() -> int:
    value = secrets.randbelow(2**31)
    print(f"seed {value}")
    return value


def draw_config(rng: random.Random, image: bool) -> TransformerConfig:
    heads = rng.randint(1, 3)
    return TransformerConfig(
        dim=heads * 2 * rng.randint(6, 20),
        ffn_dim=rng.randint(20, 90),
        num_heads=heads,
        num_layers=rng.randint(1, 3),
        in_channels=36 if image else 16,
        text_dim=rng.randint(8, 40),
        # diffusers takes all but the last 512 rows as image tokens.
        text_len=512 if image else rng.randint(3, 30),
        freq_dim=2 * rng.randint(8, 40),
        image_dim=rng.randint(8, 40) if image else None,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
@torch.inference_mode()
def test_a_bidirectional_pass_equals_diffusers(image, seed):
    from diffusers import WanTransformer3DModel

    rng = random.Random(seed)
    config = draw_config(rng, image)
    ours = random_transformer(config, seed)
    theirs = WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        eps=config.eps,
        image_dim=config.image_dim,
        added_kv_proj_dim=config.dim if image else None,
    ).eval()
    renamed = {to_diffusers(name): weight for name, weight in ours.state_dict().items()}
    theirs.load_state_dict(renamed, strict=True)

    generator = torch.Generator().manual_seed(seed)
    batch, frames = rng.randint(1, 2), rng.randint(1, 4)
    height, width = 2 * rng.randint(1, 4), 2 * rng.randint(1, 4)
    latents = torch.randn(batch, config.in_channels, frames, height, width, generator=generator)
    timesteps = 1000 * torch.rand(batch, generator=generator)
    context = torch.randn(batch, config.text_len, config.text_dim, generator=generator)
    features = None
    if config.image_dim is not None:
        features = torch.randn(batch, 257, config.image_dim, generator=generator)

    velocity = full_pass(ours, latents, timesteps[:, None], ours.prompt_kv(context, features))
    expected = theirs(latents, timesteps, context, features, return_dict=False)[0]
    # The difference is diffusers' float32 rotation and sinusoid.
    torch.testing.assert_close(velocity, expected, atol=2e-4, rtol=1e-3)
    relative = (velocity - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert relative < 5e-5
