"""Wan VAE against the reference: streaming decode, encode, one image, the demo's zero caches."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.vae import VaeConfig, WanVae, decoder_state_shapes

Pairs = dict[str, tuple[Tensor, Tensor]]


def load_vae(folder: Path, dtype: torch.dtype) -> WanVae:
    """Build the VAE of ``folder``'s config and weights."""
    raw = json.loads((folder / "config.json").read_text())
    config = VaeConfig(
        dim=raw["dim"],
        latent_channels=raw["z_dim"],
        multipliers=tuple(raw["dim_mult"]),
        blocks=raw["num_res_blocks"],
        temporal=tuple(raw["temperal_downsample"]),
    )
    vae = WanVae(config)
    vae.load_state_dict(
        {k: v.float() for k, v in load_file(folder / "weights.safetensors").items()}
    )
    return vae.to(dtype).eval()


@torch.inference_mode()
def run(vectors: Path, dtype: torch.dtype = torch.float32) -> dict[str, Pairs]:
    """Run every VAE case.

    Args:
        vectors: folder with ``vae/``.
        dtype: of the weights and activations.

    Returns:
        ``{case: {tensor name: (ours, reference)}}``.
    """
    folder = vectors / "vae"
    vae = load_vae(folder, dtype)
    golden = {k: v.transpose(1, 2) for k, v in load_file(folder / "streaming.safetensors").items()}
    streaming: Pairs = {}
    state, done = None, 0
    while (name := f"pixels.chunk{len(streaming)}") in golden:
        frames = (golden[name].shape[1] + (3 if state is None else 0)) // 4
        chunk = golden["latent"][:, done : done + frames].to(dtype)
        pixels, state = vae.decode_raw(chunk, state)
        streaming[name] = (pixels, golden[name])
        done += frames

    video = golden["encode.pixels"].to(dtype)
    whole, _ = vae.encode(video)
    image, state = vae.encode(video[:, :1])
    parts = [image]
    for start in range(1, video.shape[1], 4):
        part, state = vae.encode(video[:, start : start + 4], state)
        parts.append(part)

    demo = {
        k: v.transpose(1, 2) for k, v in load_file(folder / "demo_zero_cache.safetensors").items()
    }
    latents = demo["latent"].to(dtype)
    batch, _, _, height, width = latents.shape
    # The demo starts from memories of zeros, which are not the same as a stream's start.
    zeros = tuple(
        torch.zeros(batch, *shape, dtype=dtype)
        for shape in decoder_state_shapes(vae.config, height, width)
    )
    pixels, _ = vae.decode_raw(latents, zeros)
    return {
        "vae/streaming": streaming,
        "vae/streaming.encode": {
            "whole": (whole, golden["encode.latent"]),
            "streamed": (torch.cat(parts, dim=1), golden["encode.latent"]),
        },
        "vae/streaming.single_frame": {"latent": (image, golden["encode.latent_single_frame"])},
        "vae/demo_zero_cache": {"pixels": (pixels[:, 3:], demo["pixels"])},
    }
