"""LongLive's prompt switches by recache, and its window-relative rotary positions."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.policy import CachePolicy
from models.sampler import Sampler
from models.transformer import CausalWan
from tests.parity.forward import load_transformer
from tests.parity.rig import Pairs, Rig, recorded_noise


def run_case(
    network: CausalWan, folder: Path, name: str, case: dict[str, Any], page_tokens: int | None
) -> Pairs:
    """Run one rollout of ``cases.json``."""
    vectors = load_file(folder / f"{name}.safetensors")
    policy = CachePolicy(
        window_frames=case["local_attn_size"],
        sink_frames=case["sink_size"],
        rope="window" if case.get("relative_rope") else "absolute",
        chunk_frames=case["num_frame_per_block"],
        context_timestep=float(case["context_noise"]),
        recache="bidirectional",
        keep_sink_on_recache=case.get("global_sink", True),
    )
    schedule = Sampler(case["timestep_shift"], tuple(case["timesteps"]), warp=False).schedule()
    rig = Rig.of(
        network,
        policy,
        tuple(case["latent_hw"]),
        case["local_attn_size"],
        page_tokens=page_tokens,
    )
    segments = rig.prompts(vectors["prompt_embeds"])
    pairs: Pairs = {
        "schedule.timesteps": (
            torch.tensor(schedule.timesteps, dtype=torch.float64),
            torch.tensor(case["timesteps"], dtype=torch.float64),
        )
    }
    switches = case.get("switch_frame_indices", [])
    layer = network.config.num_layers - 1
    latents, segment = [], 0
    for chunk in range(case["num_frames"] // policy.chunk_frames):
        start = chunk * policy.chunk_frames
        if segment < len(switches) and start >= switches[segment]:
            segment += 1
            rig.generator.recache(rig.streams[0], segments[segment])
            for part, ours in zip("kv", rig.cache(layer, policy.window_frames or 0), strict=True):
                key = f"cache_after_recache.frame{start:03d}.{layer}.{part}"
                pairs[key] = (ours, vectors[key])
        draw = recorded_noise(vectors, chunk, start, policy.chunk_frames)
        latents.append(
            rig.generator.chunk(
                rig.streams, policy.chunk_frames, [segments[segment]], [False], schedule, draw
            )
        )
    pairs["latents"] = (torch.cat(latents, dim=1), vectors["latents"])
    return pairs | (rig.compare_calls(case["passes"]) if "passes" in case else {})


@torch.inference_mode()
def run(
    vectors: Path, dtype: torch.dtype = torch.float32, page_tokens: int | None = None
) -> dict[str, Pairs]:
    """Run every case; see ``tests/parity/rollouts.py``."""
    network = load_transformer(vectors / "transformer", dtype)
    folder = vectors / "longlive"
    cases = json.loads((folder / "cases.json").read_text())
    return {
        f"longlive/{name}": run_case(network, folder, name, case, page_tokens)
        for name, case in cases.items()
        if (folder / f"{name}.safetensors").exists()
    }
