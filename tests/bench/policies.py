"""What every way to do less work changes, on the reference's own rollout.

    python -m tests.bench.policies --vectors tests/golden --json

Each row generates a rollout that slides its window from the recorded noise and compares all
latents with the reference's: relative RMS and the largest difference. The first row is the exact
path; a policy's cost is the distance from it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from engine.generator import Generator
from engine.merged import MergingGenerator
from kernels.backend import RunAttention, TorchKernels
from kernels.sparse import SparsePages
from models.accelerate import LinearKind, accelerate
from models.kv import KVView
from models.paged_kv import KVPool, RowPages
from models.planned_kv import PlannedKV, plan_rows
from models.policy import CachePolicy, RopeMode
from models.sampler import Sampler
from tests.parity.forward import load_transformer
from tests.parity.rig import recorded_noise

CASE = "local7_sink1_framewise"


@dataclass(frozen=True)
class Policy:
    """One row."""

    name: str
    dtype: torch.dtype = torch.float32
    linear: LinearKind = "plain"
    shorter: int = 0
    merged: bool = False
    keep_pages: int | None = None


POLICIES = (
    Policy("exact, float32"),
    Policy("clean pass merged into the next chunk's first", merged=True),
    Policy("bfloat16", torch.bfloat16),
    Policy("FP8 linears, float32 elsewhere", linear="fp8"),
    Policy("FP8 linears, bfloat16 elsewhere", torch.bfloat16, "fp8"),
    Policy("window shorter by 2 latent frames", shorter=2),
    Policy("window shorter by 3 latent frames", shorter=3),
    Policy("best 3 older pages, with sink and own", keep_pages=3),
    Policy("best 2 older pages, with sink and own", keep_pages=2),
    Policy("best older page, with sink and own", keep_pages=1),
)


def planned_view(
    pool: KVPool,
    rows: Sequence[RowPages],
    grid: tuple[int, int],
    rope: RopeMode,
    *,
    block_causal: int | None,
    past_weight: float,
    kernels: TorchKernels,
) -> KVView:
    """Give a batch the accelerator's view (see ``engine.generator.MakeView``)."""
    assert block_causal is None, "this rollout has no block-causal pass"
    plan = plan_rows(rows, grid, rope, pool.k.shape[-1], pool.k.device, past_weight)
    return PlannedKV(pool, plan, kernels)


@torch.inference_mode()
def latents(folder: Path, name: str, policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate the rollout under a policy; ours and the reference's latents."""
    case: dict[str, Any] = json.loads((folder / "rollouts" / "cases.json").read_text())[name]
    vectors = load_file(folder / "rollouts" / f"{name}.safetensors")
    network = load_transformer(folder / "transformer", policy.dtype)
    kernels = TorchKernels()
    if policy.keep_pages is not None:
        kernels = TorchKernels(SparsePages(RunAttention(), policy.keep_pages, case["sink_size"]))
    accelerate(network, kernels, policy.linear)
    config = network.config
    window = case["local_attn_size"] - policy.shorter
    cache = CachePolicy(
        window_frames=window,
        sink_frames=case["sink_size"],
        chunk_frames=case["num_frame_per_block"],
    )
    hw = case["frame_seq_length"]
    pool = KVPool(
        config.num_layers, window + 1, hw, config.num_heads, config.head_dim, policy.dtype,
        "cpu",
    )  # fmt: skip
    kind: Callable[..., Generator] = MergingGenerator if policy.merged else Generator
    generator = kind(network, config, cache, pool, partial(planned_view, kernels=kernels))
    stream = generator.open(tuple(case["latent_hw"]))
    assert stream is not None
    prompt = network.prompt_kv(vectors["prompt_embeds"].to(policy.dtype))
    schedule = Sampler(case["timestep_shift"]).schedule()
    frames = case["num_frame_per_block"]
    made = []
    for chunk in range(case["num_frames"] // frames):
        draw = recorded_noise(vectors, chunk, chunk * frames, frames)
        made.append(generator.chunk([stream], frames, [prompt], [False], schedule, draw))
    return torch.cat(made, dim=1).float(), vectors["latents"]


def measure(folder: Path, name: str, policy: Policy) -> dict[str, Any]:
    """One row of the table."""
    ours, reference = latents(folder, name, policy)
    difference = ours.double() - reference.double()
    rms = difference.square().mean().sqrt() / reference.double().square().mean().sqrt()
    return {
        "policy": policy.name,
        "relative_rms": float(f"{rms.item():.3g}"),
        "largest": float(f"{difference.abs().max().item():.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="folder with rollouts/")
    parser.add_argument("--case", default=CASE, help="a rollout with a window")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(options.vectors, options.case, policy) for policy in POLICIES]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['relative_rms']:10.3g} {row['largest']:10.3g}  {row['policy']}")


if __name__ == "__main__":
    main()
