"""Whole rollouts against Self Forcing: every intermediate, the final cache, every network call."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.policy import CachePolicy
from models.sampler import Sampler
from models.transformer import CausalWan
from tests.parity.forward import load_transformer
from tests.parity.rig import Pairs, Rig, Watch, recorded_noise


def run_case(
    network: CausalWan, folder: Path, name: str, case: dict[str, Any], page_tokens: int | None
) -> Pairs:
    """Run one rollout of ``cases.json``."""
    vectors = load_file(folder / f"{name}.safetensors")
    window = None if case["local_attn_size"] == -1 else int(case["local_attn_size"])
    policy = CachePolicy(
        window_frames=window,
        sink_frames=case["sink_size"],
        rope="absolute",
        chunk_frames=case["num_frame_per_block"],
        context_timestep=float(case["context_noise"]),
        recache="none",
        independent_first_frame=case["independent_first_frame"],
    )
    sampler = Sampler(
        case["timestep_shift"],
        tuple(float(step) for step in case["denoising_step_list"]),
        case["warp_denoising_step"],
    )
    schedule = sampler.schedule()
    cache_frames = case["kv_cache_tokens"] // case["frame_seq_length"]
    rig = Rig.of(network, policy, tuple(case["latent_hw"]), cache_frames, case["B"], page_tokens)
    prompts = rig.prompts(vectors["prompt_embeds"])
    pairs: Pairs = {
        "schedule.timesteps": _pair(schedule.timesteps, case["timesteps"]),
        "schedule.sigmas": _pair(schedule.sigmas, case["sigmas"]),
    }
    latents = []
    if case["initial_frames"]:
        latents.append(vectors["initial_latent"])
        rig.generator.prefill(rig.streams[0], vectors["initial_latent"], prompts[0])
    done, chunk = 0, 0
    while done < case["num_frames"]:
        alone = case["independent_first_frame"] and not case["initial_frames"] and chunk == 0
        frames = 1 if alone else policy.chunk_frames
        watch = Watch(chunk, len(schedule))
        draw = recorded_noise(vectors, chunk, done, frames)
        same = [False] * case["B"]
        latents.append(
            rig.generator.chunk(rig.streams, frames, prompts, same, schedule, draw, trace=watch)
        )
        for key, value in watch.seen.items():
            if key in vectors:
                pairs[key] = (value, vectors[key])
        done, chunk = done + frames, chunk + 1
    pairs["latents"] = (torch.cat(latents, dim=1), vectors["latents"])
    layer = network.config.num_layers - 1
    if f"final_cache.{layer}.k" in vectors:
        for part, ours in zip("kv", rig.cache(layer, cache_frames), strict=True):
            pairs[f"final_cache.{layer}.{part}"] = (ours, vectors[f"final_cache.{layer}.{part}"])
    return pairs | rig.compare_calls(case["passes"])


@torch.inference_mode()
def run(
    vectors: Path, dtype: torch.dtype = torch.float32, page_tokens: int | None = None
) -> dict[str, Pairs]:
    """Run every rollout.

    Args:
        vectors: folder with ``rollouts/`` and ``transformer/``.
        dtype: of weights, activations and cache.
        page_tokens: size of a page; None is a whole latent frame.

    Returns:
        ``{case: {tensor name: (ours, reference)}}``; integers must be equal.
    """
    network = load_transformer(vectors / "transformer", dtype)
    folder = vectors / "rollouts"
    cases = json.loads((folder / "cases.json").read_text())
    return {
        f"rollouts/{name}": run_case(network, folder, name, case, page_tokens)
        for name, case in cases.items()
        if (folder / f"{name}.safetensors").exists()
    }


def _pair(ours: Any, reference: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(ours, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
