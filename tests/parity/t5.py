"""UMT5 against the reference: hidden states, prompt embeddings, position buckets."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.text_encoder import UMT5, TextEncoderConfig, relative_buckets

Pairs = dict[str, tuple[Tensor, Tensor]]


def load_t5(folder: Path, dtype: torch.dtype) -> UMT5:
    """Build the encoder of ``folder``'s config and weights."""
    raw = json.loads((folder / "config.json").read_text())
    config = TextEncoderConfig(
        vocab_size=raw["vocab"],
        dim=raw["dim"],
        dim_attn=raw["dim_attn"],
        dim_ffn=raw["dim_ffn"],
        num_heads=raw["num_heads"],
        num_layers=raw["num_layers"],
        buckets=raw["num_buckets"],
    )
    network = UMT5(config)
    weights = load_file(folder / "weights.safetensors")
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    return network.to(dtype).eval()


@torch.inference_mode()
def run(vectors: Path, dtype: torch.dtype = torch.float32) -> dict[str, Pairs]:
    """Run every text encoder case.

    Args:
        vectors: folder with ``t5/``.
        dtype: of the weights and activations.

    Returns:
        ``{case: {tensor name: (ours, reference)}}``; the buckets are integers and must be equal.
    """
    network = load_t5(vectors / "t5", dtype)
    golden = load_file(vectors / "t5" / "encode.safetensors")
    ids, mask = golden["input_ids"], golden["attention_mask"]
    buckets = relative_buckets(golden["relative_positions"], network.config.buckets)
    return {
        "t5/encode.hidden": {"raw_output": (network.hidden(ids, mask), golden["raw_output"])},
        "t5/encode.embeddings": {"prompt_embeds": (network(ids, mask), golden["prompt_embeds"])},
        "t5/encode.buckets": {"relative_buckets": (buckets, golden["relative_buckets"])},
    }
