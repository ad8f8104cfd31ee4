r"""What every way to do less work changes, on the reference's own rollout.

    python -m tests.bench.policies --vectors tests/golden --json > \
        tests/bench/results/policies-on-vectors.json

Each row generates a rollout that slides its window from the recorded noise and compares all
latents with the reference's: relative RMS and the largest difference. The first row is the exact
path; a policy's cost is the distance from it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from engine.accelerated import planned_view
from engine.bench import device_name
from engine.generator import Generator
from engine.merged import MergingGenerator
from engine.work_policy import WorkPolicy
from kernels.fp8_attention import EmulatedFp8Attention
from kernels.interface import PagedAttention
from kernels.sparse import SparsePages
from kernels.torch_backend import RunAttention, TorchKernels
from models.accelerate import accelerate
from models.paged_kv import KVPool
from models.policy import CachePolicy
from models.sampler import Sampler
from tests.parity.forward import load_transformer
from tests.parity.rig import recorded_noise

CASE = "local7_sink1_framewise"


@dataclass(frozen=True)
class Row:
    """One row: a policy of the engine, and a dtype."""

    name: str
    policy: str = "exact"
    dtype: torch.dtype = torch.float32


ROWS = (
    Row("exact, float32"),
    Row("clean pass merged into the next chunk's first", "merge-clean-pass"),
    Row("2 steps of 4", "steps=2"),
    Row("bfloat16", dtype=torch.bfloat16),
    Row("FP8 linears, float32 elsewhere", "linear=fp8"),
    Row("FP8 linears, bfloat16 elsewhere", "linear=fp8", torch.bfloat16),
    Row("FP8 attention, float32 elsewhere", "attention=fp8"),
    Row(
        "FP8 attention and linears, bfloat16 elsewhere", "linear=fp8,attention=fp8", torch.bfloat16
    ),
    Row("window shorter by 2 latent frames", "window=5"),
    Row("window shorter by 3 latent frames", "window=4"),
    Row("best 3 older pages, with sink and own", "keep-pages=3"),
    Row("best 2 older pages, with sink and own", "keep-pages=2"),
    Row("best older page, with sink and own", "keep-pages=1"),
)


@torch.inference_mode()
def latents(folder: Path, name: str, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate the rollout under a row's policy; ours and the reference's latents."""
    case: dict[str, Any] = json.loads((folder / "rollouts" / "cases.json").read_text())[name]
    vectors = load_file(folder / "rollouts" / f"{name}.safetensors")
    network = load_transformer(folder / "transformer", row.dtype)
    policy = WorkPolicy.parse(row.policy)
    accelerate(network, TorchKernels(), policy.linear)
    config, frames = network.config, case["num_frame_per_block"]
    cache = policy.cache(
        CachePolicy(
            window_frames=case["local_attn_size"],
            sink_frames=case["sink_size"],
            chunk_frames=frames,
        )
    )
    assert cache.window_frames is not None, "the rollout has a window"
    attend: PagedAttention = RunAttention()
    if policy.attention == "fp8":
        attend = EmulatedFp8Attention(attend)
    if policy.keep_pages is not None:
        attend = SparsePages(attend, policy.keep_pages, cache.sink_frames)
    hw = case["frame_seq_length"]
    pool = KVPool(
        config.num_layers, cache.window_frames + 1, hw, config.num_heads, config.head_dim,
        row.dtype, "cpu",
    )  # fmt: skip
    kind: Callable[..., Generator] = MergingGenerator if policy.merge_clean_pass else Generator
    generator = kind(
        network, config, cache, pool, partial(planned_view, kernels=TorchKernels(attend))
    )
    stream = generator.open(tuple(case["latent_hw"]))
    assert stream is not None
    prompt = network.prompt_kv(vectors["prompt_embeds"].to(row.dtype))
    schedule = policy.sampler(Sampler(case["timestep_shift"])).schedule()
    made = []
    for chunk in range(case["num_frames"] // frames):
        draw = recorded_noise(vectors, chunk, chunk * frames, frames)
        made.append(generator.chunk([stream], frames, [prompt], [False], schedule, draw))
    return torch.cat(made, dim=1).float(), vectors["latents"]


def measure(folder: Path, name: str, row: Row) -> dict[str, Any]:
    """One row of the table."""
    ours, reference = latents(folder, name, row)
    difference = ours.double() - reference.double()
    rms = difference.square().mean().sqrt() / reference.double().square().mean().sqrt()
    return {
        "policy": row.name,
        "as_text": row.policy,
        "relative_rms": float(f"{rms.item():.3g}"),
        "largest": float(f"{difference.abs().max().item():.3g}"),
    }


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="folder with rollouts/")
    parser.add_argument("--case", default=CASE, help="a rollout with a window")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    rows = [measure(options.vectors, options.case, row) for row in ROWS]
    if options.json:
        report = {
            "case": options.case,
            "vectors": str(options.vectors),
            "device": device_name(torch.device("cpu")),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "policies": rows,
        }
        print(json.dumps(report, indent=1))
        return
    for row in rows:
        print(f"{row['relative_rms']:10.3g} {row['largest']:10.3g}  {row['policy']}")


if __name__ == "__main__":
    main(sys.argv[1:])
