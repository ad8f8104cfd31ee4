"""TAEHV against the reference: raw frames, the streamed decode, the encoder."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.taehv import Taehv, TaehvConfig

Pairs = dict[str, tuple[Tensor, Tensor]]


def load_taehv(folder: Path, dtype: torch.dtype) -> Taehv:
    """Build the codec of ``folder``'s config and weights."""
    raw = json.loads((folder / "config.json").read_text())
    a, b, c, d = raw["decoder_widths"]
    codec = Taehv(TaehvConfig((a, b, c, d), raw["encoder_width"], raw["latent_channels"]))
    weights = load_file(folder / "weights.safetensors")
    codec.load_state_dict({k: v.float() for k, v in weights.items()})
    return codec.to(dtype).eval()


@torch.inference_mode()
def run(vectors: Path, dtype: torch.dtype = torch.float32) -> dict[str, Pairs]:
    """Run every TAEHV case.

    Args:
        vectors: folder with ``taehv/``.
        dtype: of the weights and activations.

    Returns:
        ``{case: {tensor name: (ours, reference)}}``.
    """
    codec = load_taehv(vectors / "taehv", dtype)
    golden = load_file(vectors / "taehv" / "decode.safetensors")
    latents = golden["latent"].to(dtype)
    raw, _ = codec.decode_raw(latents, None)

    # The stream as the engine sees it: clamped, in [-1, 1], the first three frames dropped.
    shown = golden["raw"].clamp(0.0, 1.0)[:, 3:] * 2.0 - 1.0
    whole, _ = codec.decode(latents)
    state, parts = None, []
    for i in range(latents.shape[1]):
        part, state = codec.decode(latents[:, i : i + 1], state)
        parts.append(part)

    encoded, _ = codec.encode_raw(golden["encode.video"].to(dtype), None)
    return {
        "taehv/decode.raw": {"raw": (raw, golden["raw"])},
        "taehv/decode.stream": {"whole": (whole, shown), "streamed": (torch.cat(parts, 1), shown)},
        "taehv/decode.encode": {"latent": (encoded, golden["encode.latent"])},
    }
