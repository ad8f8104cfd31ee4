"""Single passes against the reference: plain Wan, the training masks, embeddings, image-to-video.

A case is named after its file; ``block_causal`` holds several, which are read off its tensors:
``block3_local6.x`` is chunks of 3 frames with a window of 6, ``iff3.x`` a single frame and then
chunks of 3.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels import rope
from models import masks
from models.config import TransformerConfig
from models.dense_kv import BlockCausalKV
from models.transformer import CausalWan, PromptKV, sinusoid

Pairs = dict[str, tuple[Tensor, Tensor]]


def config_from_wan(raw: Mapping[str, Any]) -> TransformerConfig:
    """Read the ``config.json`` of an original Wan release.

    Raises:
        ValueError: a setting that every model of the family shares has another value.
    """
    for key in ("qk_norm", "cross_attn_norm"):
        if not raw.get(key, True):
            raise ValueError(f"{key} is false; this network always has it; use another model")
    image = raw.get("model_type", "t2v") == "i2v"
    return TransformerConfig(
        dim=raw["dim"],
        ffn_dim=raw["ffn_dim"],
        num_heads=raw["num_heads"],
        num_layers=raw["num_layers"],
        in_channels=raw.get("in_dim", 16),
        out_channels=raw.get("out_dim", 16),
        text_dim=raw.get("text_dim", 4096),
        text_len=raw.get("text_len", 512),
        freq_dim=raw.get("freq_dim", 256),
        patch=tuple(raw.get("patch_size", (1, 2, 2))),
        eps=raw.get("eps", 1e-6),
        image_dim=raw.get("clip_dim", 1280) if image else None,
    )


def load_transformer(folder: Path, dtype: torch.dtype) -> CausalWan:
    """Build the transformer of ``folder``'s config and weights."""
    config = config_from_wan(json.loads((folder / "config.json").read_text()))
    with torch.device("meta"):
        network = CausalWan(config)
    weights = load_file(folder / "weights.safetensors")
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


def full_pass(
    network: CausalWan,
    latents: Tensor,
    timesteps: Tensor,
    prompt: PromptKV,
    frame_mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Velocity of whole clips ``[B, C, F, H, W]``, the layout of the vectors."""
    frames = latents.shape[2]
    where = torch.arange(frames) if positions is None else positions
    grid = network.config.grid(*latents.shape[-2:])
    view = BlockCausalKV.of(where, grid, network.config.head_dim, frame_mask)
    x = latents.transpose(1, 2).to(network.dtype)
    return network(x, timesteps.expand(x.shape[:2]), prompt, view).transpose(1, 2)


def _bidirectional(network: CausalWan, golden: dict[str, Tensor]) -> Pairs:
    prompt = network.prompt_kv(golden["context"], golden.get("clip_fea"))
    latents = golden["x"]
    if "y" in golden:
        latents = torch.cat((latents, golden["y"]), dim=1)
    flow = full_pass(network, latents, golden["t"][:, None], prompt)
    return {"flow": (flow, golden["flow"])}


def _starts(case: str, frames: int) -> tuple[list[int], int | None]:
    """First frame of each chunk, and the window, from the name of a case."""
    parts = re.fullmatch(r"(block|iff)(\d+)(?:_local(\d+))?", case)
    assert parts is not None, f"block_causal case {case!r} is not of a known kind"
    starts = masks.chunk_starts(frames, int(parts[2]), parts[1] == "iff")
    return starts, int(parts[3]) if parts[3] else None


def _block_causal(network: CausalWan, golden: dict[str, Tensor]) -> dict[str, Pairs]:
    prompt = network.prompt_kv(golden["context"])
    cases: dict[str, Pairs] = {}
    for name in sorted(key.removesuffix(".x") for key in golden if key.endswith(".x")):
        latents, timesteps = golden[f"{name}.x"], golden[f"{name}.t"]
        frames = latents.shape[2]
        starts, window = _starts(name, frames)
        mask = masks.block_causal(frames, starts, window)
        flow = full_pass(network, latents, timesteps, prompt, mask)
        cases[f"forward/block_causal.{name}"] = {"flow": (flow, golden[f"{name}.flow"])}
    if "teacher_forcing.flow" in golden:
        noisy, clean = golden["block3.x"], golden["teacher_forcing.clean_x"]
        frames = noisy.shape[2]
        flow = full_pass(
            network,
            torch.cat((clean, noisy), dim=2),
            torch.cat((golden["teacher_forcing.aug_t"], golden["block3.t"]), dim=1),
            prompt,
            masks.teacher_forcing(frames, masks.chunk_starts(frames, 3)),
            torch.arange(frames).repeat(2),
        )[:, :, frames:]
        cases["forward/block_causal.teacher_forcing"] = {
            "flow": (flow, golden["teacher_forcing.flow"])
        }
    return cases


def _embeddings(golden: dict[str, Tensor], grid: tuple[int, int], dtype: torch.dtype) -> Pairs:
    pairs: Pairs = {
        "sinusoidal": (
            sinusoid(golden["t"], golden["sinusoidal"].shape[-1]).to(dtype),
            golden["sinusoidal"],
        )
    }
    heads = golden["rope_in"].to(dtype)
    frames = heads.shape[1] // (grid[0] * grid[1])
    for name in (key for key in golden if key.startswith("rope_start")):
        positions = torch.arange(frames) + int(name.removeprefix("rope_start"))
        turn = rope.angles(rope.token_positions(positions, grid), heads.shape[-1])
        pairs[name] = (rope.rotate(heads, *turn), golden[name])
    return pairs


@torch.inference_mode()
def run(vectors: Path, dtype: torch.dtype = torch.float32) -> dict[str, Pairs]:
    """Run every case of ``forward/``.

    Args:
        vectors: folder with ``forward/`` and ``transformer/``.
        dtype: of the weights and activations.

    Returns:
        ``{case: {tensor name: (ours, reference)}}``.
    """
    network = load_transformer(vectors / "transformer", dtype)
    cases: dict[str, Pairs] = {}
    for file in sorted((vectors / "forward").glob("*.safetensors")):
        golden = load_file(file)
        if file.stem == "bidirectional":
            cases["forward/bidirectional"] = _bidirectional(network, golden)
        elif file.stem == "block_causal":
            cases.update(_block_causal(network, golden))
        elif file.stem == "embeddings":
            # The file does not say how its tokens lie; they are those of the large latents.
            latents = load_file(vectors / "forward" / "bidirectional.safetensors")["x"]
            grid = network.config.grid(*latents.shape[-2:])
            cases["forward/embeddings"] = _embeddings(golden, grid, dtype)
    return cases


@torch.inference_mode()
def run_i2v(vectors: Path, dtype: torch.dtype = torch.float32) -> dict[str, Pairs]:
    """Run the image-to-video network of ``i2v/``, which has weights of its own."""
    folder = vectors / "i2v"
    network = load_transformer(folder, dtype)
    return {"i2v/forward": _bidirectional(network, load_file(folder / "forward.safetensors"))}
