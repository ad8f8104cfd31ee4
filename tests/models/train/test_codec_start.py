import pytest
import torch

from models.taehv import Taehv, TaehvConfig
from models.train.autoencoder import psnr_db
from models.train.codec_start import fits, linear_encoder, start_from_components

CONFIG = TaehvConfig(decoder_widths=(48, 40, 32, 8), encoder_width=32, subpixel=True)


def smooth_clips(seed: int, frames: int) -> torch.Tensor:
    """Clips of moving colour gradients in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 4, 3, 4, generator=generator)
    wide = torch.nn.functional.interpolate(
        coarse, size=(frames, 32, 48), mode="trilinear", align_corners=True
    )
    return wide.transpose(1, 2) * 2 - 1


@pytest.fixture(scope="module")
def codec() -> Taehv:
    torch.manual_seed(0)
    made = Taehv(CONFIG)
    start_from_components(made, (smooth_clips(0, 16) + 1) / 2)
    return made


@torch.no_grad()
def test_a_started_codec_reconstructs_clips_it_has_not_seen(codec: Taehv) -> None:
    clips = smooth_clips(1, 17)
    latents, _ = codec.encode(clips)
    pixels, _ = codec.decode(latents)
    untrained, _ = Taehv(CONFIG).decode(latents)
    assert psnr_db(pixels, clips).mean() > 24
    assert psnr_db(pixels, clips).mean() > psnr_db(untrained, clips).mean() + 10


@torch.no_grad()
def test_the_short_encoder_equals_the_network(codec: Taehv) -> None:
    clips = smooth_clips(2, 9)
    latents, _ = codec.encode(clips)
    torch.testing.assert_close(linear_encoder(codec)(clips), latents, atol=1e-4, rtol=1e-4)


def test_a_codec_without_room_for_signed_pairs_does_not_fit() -> None:
    assert fits(CONFIG)
    assert not fits(TaehvConfig())
    assert not fits(TaehvConfig(decoder_widths=(48, 24, 32, 8), encoder_width=32, subpixel=True))
