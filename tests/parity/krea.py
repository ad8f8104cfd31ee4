"""Krea Realtime's recompute of a short context before a chunk, and the chunk's first passes."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.policy import CachePolicy
from models.sampler import Sampler, Schedule
from tests.parity.forward import load_transformer
from tests.parity.rig import Pairs, Rig, Watch


@torch.inference_mode()
def run(
    vectors: Path, dtype: torch.dtype = torch.float32, page_tokens: int | None = None
) -> dict[str, Pairs]:
    """Run every context length; see ``tests/parity/rollouts.py``.

    The stream has just made the context's latents; the engine's strategy rebuilds the cache from
    them, and the chunk is denoised one step from each of the noise levels.
    """
    network = load_transformer(vectors / "transformer", dtype)
    case = json.loads((vectors / "krea" / "cases.json").read_text())
    golden = load_file(vectors / "krea" / "recompute.safetensors")
    table = Sampler(case["timestep_shift"], tuple(case["timesteps"]), warp=False).schedule()
    pairs: Pairs = {}
    for context in case["context_frames"]:
        chunk = case["num_frame_per_block"]
        policy = CachePolicy(
            window_frames=context + chunk,
            rope="absolute",
            chunk_frames=chunk,
            context_timestep=float(case["context_timestep"]),
            recache="every_chunk",
        )
        name = f"ctx{context}"
        noisy: Tensor = golden[f"{name}.noisy"]
        for timestep, sigma in zip(table.timesteps, table.sigmas, strict=True):
            rig = Rig.of(
                network, policy, tuple(case["latent_hw"]), context + chunk, page_tokens=page_tokens
            )
            (stream,) = rig.streams
            stream.extend(golden[f"{name}.context_latents"])
            (prompt,) = rig.prompts(golden["prompt_embeds"])
            watch = Watch(0, 1)
            rig.generator.recache(stream, prompt)
            for layer in range(network.config.num_layers):
                for part, ours in zip("kv", rig.cache(layer, context), strict=True):
                    key = f"{name}.cache.{layer}.{part}"
                    pairs[key] = (ours, golden[key])
            one = Schedule((timestep,), (sigma,))
            rig.generator.chunk(
                rig.streams,
                chunk,
                [prompt],
                [False],
                one,
                lambda _, noisy=noisy: noisy,
                trace=watch,
            )
            label = f"t{timestep:g}"
            for ours_name, key in (("flow", "flow"), ("x0", "x0")):
                ours = watch.seen[f"chunk00.{ours_name}.0"]
                pairs[f"{name}.{key}.{label}"] = (ours, golden[f"{name}.{key}.{label}"])
    return {"krea/recompute": pairs}
