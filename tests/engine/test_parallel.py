"""One stream over two processes gives the latents of one."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.generator import Generator
from engine.parallel import Bands, ParallelNetwork, RowsView, follow, local_pool, plan_bands
from models.config import TransformerConfig
from models.paged_kv import KVPool
from models.policy import CachePolicy
from models.sampler import Sampler
from models.transformer import CausalWan

CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)
POLICY = CachePolicy(window_frames=5, sink_frames=1, chunk_frames=2, recache="block_causal")
CASES: dict[str, tuple[CachePolicy, tuple[int, int]]] = {
    "rows": (POLICY, (4, 6)),
    "columns": (POLICY, (6, 8)),
    "window-relative": (replace(POLICY, rope="window"), (4, 6)),
    "past weighed less": (replace(POLICY, past_weight=0.3), (4, 6)),
}


def network_of() -> CausalWan:
    torch.manual_seed(0)
    network = CausalWan(CONFIG).requires_grad_(False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def pool_of(latent_hw: tuple[int, int]) -> KVPool:
    tokens = latent_hw[0] * latent_hw[1] // 4
    return KVPool(2, 11, tokens, 4, 12, torch.float32, "cpu")


@torch.inference_mode()
def roll(generator: Generator, network: CausalWan, latent_hw: tuple[int, int]) -> torch.Tensor:
    """Two streams, alone and together, with a new prompt in between."""
    streams = [stream for _ in range(2) if (stream := generator.open(latent_hw)) is not None]
    random = torch.Generator().manual_seed(1)
    prompts = [network.prompt_kv(torch.randn(1, 5, 16, generator=random)) for _ in range(2)]
    out = []
    for chunk, (which, prompt, changed) in enumerate(
        [((0,), 0, False), ((0, 1), 0, False), ((0,), 1, True), ((0, 1), 1, False)]
    ):
        noise = torch.randn(2, len(which), 2, 16, *latent_hw, generator=random)
        out.append(
            generator.chunk(
                [streams[i] for i in which], 2, [prompts[prompt]] * len(which),
                [changed] * len(which), Sampler().schedule(2, chunk), noise.__getitem__,
            )
        )  # fmt: skip
    return torch.cat(out)


def run_rank(rank: int, folder: Path) -> None:
    """One of two processes; the leader leaves every case's latents in ``folder``."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network, results = network_of(), {}
    for name, (policy, latent_hw) in CASES.items():
        pool = pool_of(latent_hw)
        mine = local_pool(pool, 2)
        if rank == 1:
            assert follow(network, mine) > 0
            continue
        parallel = ParallelNetwork(network, mine)
        generator = Generator(parallel, CONFIG, policy, pool, RowsView.make)
        results[name] = roll(generator, network, latent_hw)
        parallel.stop()
    if rank == 0:
        (folder / "results").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("parallel")
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; from pathlib import Path; from tests.engine.test_parallel import run_rank; "
        "run_rank(int(sys.argv[1]), Path(sys.argv[2]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)], cwd=root)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    loaded: Any = pickle.loads((folder / "results").read_bytes())
    return loaded


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_latents_of_one(results: dict[str, torch.Tensor], name: str) -> None:
    policy, latent_hw = CASES[name]
    network = network_of()
    generator = Generator(network, CONFIG, policy, pool_of(latent_hw))
    expected = roll(generator, network, latent_hw)
    torch.testing.assert_close(results[name], expected, atol=2e-5, rtol=1e-4)


def test_a_device_keeps_its_share_of_the_heads() -> None:
    pool = pool_of((4, 6))
    mine = local_pool(pool, 2)
    assert mine.nbytes * 2 == pool.nbytes
    assert mine.k.shape[3] == 2


@pytest.mark.parametrize("axis", [0, 1])
def test_bands_come_back_in_token_order(axis: int) -> None:
    bands = Bands(2, axis, (4, 6))
    tokens = torch.arange(3 * 24).view(1, 72, 1, 1)
    parts = bands.bands(tokens, 3)
    assert parts.shape == (2, 1, 36, 1, 1)
    assert torch.equal(bands.whole(parts, 3), tokens)
    latents = torch.arange(24.0).view(1, 1, 1, 4, 6)
    cuts = [bands.cut(latents, rank) for rank in range(2)]
    assert torch.equal(bands.join(cuts), latents)
    assert torch.equal(parts[1, 0, :12, 0, 0].float(), cuts[1].flatten())


def test_frames_are_cut_by_rows_where_they_divide_else_by_columns() -> None:
    wide = TransformerConfig(dim=64, ffn_dim=64, num_heads=4, num_layers=1)
    assert plan_bands(wide, (30, 52), 2).axis == 0
    assert plan_bands(wide, (30, 52), 4).axis == 1


def test_heads_and_tokens_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 devices for 4 heads"):
        plan_bands(CONFIG, (30, 52), 3)
    with pytest.raises(ValueError, match="2 devices for frames of 3x5 tokens"):
        plan_bands(CONFIG, (3, 5), 2)
