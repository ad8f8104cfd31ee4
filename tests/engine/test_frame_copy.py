"""Frames leave the decoder as uint8, in order, whether or not it runs beside the network."""

import torch

from engine.frame_copy import FrameDecoder, to_uint8
from models.taehv import Taehv, TaehvConfig
from tests.kernels.triton_modules import gpu

CPU = torch.device("cpu")


def codec() -> Taehv:
    torch.manual_seed(0)
    return Taehv(TaehvConfig(decoder_widths=(16, 8, 8, 8), encoder_width=8)).eval()


def test_pixels_are_rounded_and_limited() -> None:
    pixels = torch.tensor([-1.2, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    frames = to_uint8(pixels)
    assert frames.shape == (1, 1, 6, 3)
    assert frames.is_contiguous()
    assert frames[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]


def test_chunks_of_a_stream_continue_one_another() -> None:
    model = codec()
    latents = torch.randn(1, 6, 16, 4, 4)
    decoder = FrameDecoder(model, CPU, torch.float32)
    first, state = decoder.decode(latents[:, :3], None)
    second, _ = decoder.decode(latents[:, 3:], state)
    whole, _ = decoder.decode(latents, None)
    assert first.ready()
    joined = torch.cat((first.result(), second.result()))
    assert joined.shape == (21, 32, 32, 3)
    assert (joined.int() - whole.result().int()).abs().max() <= 1


@gpu
def test_decoding_beside_other_work_gives_the_same_frames() -> None:
    device = torch.device("cuda")
    model = codec().to(device)
    latents = torch.randn(4, 1, 3, 16, 8, 8, device=device)
    work = torch.randn(2048, 2048, device=device)
    results = []
    for overlap in (False, True):
        decoder, state, pending = (
            FrameDecoder(model, device, torch.float32, overlap=overlap),
            None,
            [],
        )
        for chunk in latents:
            frames, state = decoder.decode(chunk, state)
            pending.append(frames)
            for _ in range(10):
                work = work @ work * 1e-3
        results.append(torch.cat([frames.result() for frames in pending]))
    assert torch.equal(results[0], results[1])
