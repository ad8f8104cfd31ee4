"""One stream over two processes gives the latents of one."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.batch import Guidance
from engine.generator import Generator
from engine.parallel import ParallelNetwork, RowsView, follow
from engine.spread_pool import SpreadPool
from engine.team import Team
from models.config import TransformerConfig
from models.paged_kv import KVPool
from models.policy import CachePolicy
from models.sampler import Sampler
from models.transformer import CausalWan
from tests.parity.forward import load_transformer
from tests.parity.rig import recorded_noise

CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)
PAGES = (3, 1, 5)
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = "local7_sink1_framewise"
Results = dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
PLACED = replace(CONFIG, placed=True, frame_places=2, predicts_x0=True)
POLICY = CachePolicy(window_frames=5, sink_frames=1, chunk_frames=2, recache="block_causal")
CASES: dict[str, tuple[CachePolicy, tuple[int, int], TransformerConfig]] = {
    "rows": (POLICY, (4, 6), CONFIG),
    "columns": (POLICY, (6, 8), CONFIG),
    "window-relative": (replace(POLICY, rope="window"), (4, 6), CONFIG),
    "past weighed less": (replace(POLICY, past_weight=0.3), (4, 6), CONFIG),
    "placed in rows": (POLICY, (4, 6), PLACED),
    "placed in columns": (POLICY, (6, 8), PLACED),
    "rows that do not divide": (POLICY, (6, 2), PLACED),
    "columns that do not divide": (POLICY, (6, 10), PLACED),
}


def network_of(config: TransformerConfig) -> CausalWan:
    torch.manual_seed(0)
    network = CausalWan(config).requires_grad_(False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def pool_of(latent_hw: tuple[int, int], team: Team | None = None) -> KVPool:
    sizes = (2, 11, latent_hw[0] * latent_hw[1] // 4, 4, 12, torch.float32, "cpu")
    return KVPool(*sizes) if team is None else SpreadPool(team, *sizes)


@dataclass
class Rollout:
    """A rollout of the reference that slides its window, and its recorded noise."""

    network: CausalWan
    case: dict[str, Any]
    vectors: dict[str, torch.Tensor]

    @classmethod
    def read(cls) -> "Rollout":
        folder = ROOT / "tests" / "golden"
        case = json.loads((folder / "rollouts" / "cases.json").read_text())[GOLDEN]
        network = load_transformer(folder / "transformer", torch.float32).requires_grad_(False)
        return cls(network, case, load_file(folder / "rollouts" / f"{GOLDEN}.safetensors"))

    @property
    def policy(self) -> CachePolicy:
        return CachePolicy(
            window_frames=self.case["local_attn_size"],
            sink_frames=self.case["sink_size"],
            chunk_frames=self.case["num_frame_per_block"],
        )

    def pool(self, team: Team | None = None) -> KVPool:
        config, case = self.network.config, self.case
        pages, hw = case["local_attn_size"] + 1, case["frame_seq_length"]
        shape = (config.num_layers, pages, hw, config.num_heads, config.head_dim)
        sizes = (*shape, torch.float32, "cpu")
        return KVPool(*sizes) if team is None else SpreadPool(team, *sizes)

    @torch.inference_mode()
    def made_by(self, generator: Generator) -> torch.Tensor:
        stream = generator.open(tuple(self.case["latent_hw"]))
        assert stream is not None
        prompt = self.network.prompt_kv(self.vectors["prompt_embeds"])
        schedule = Sampler(self.case["timestep_shift"]).schedule()
        frames = self.case["num_frame_per_block"]
        made = []
        for chunk in range(self.case["num_frames"] // frames):
            draw = recorded_noise(self.vectors, chunk, chunk * frames, frames)
            made.append(generator.chunk([stream], frames, [prompt], [False], schedule, draw))
        return torch.cat(made, dim=1)


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
    """One of two processes; the leader leaves every case's latents and pages in ``folder``."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    team, results = Team(rank, 2), {}
    for name, (policy, latent_hw, config) in CASES.items():
        pool, network = pool_of(latent_hw, team), network_of(config)
        assert isinstance(pool, SpreadPool)
        if rank == 1:
            assert follow(network, pool, team) > 0
            continue
        parallel = ParallelNetwork(network, pool, team)
        generator = Generator(parallel, config, policy, pool, RowsView.make)
        latents = roll(generator, network, latent_hw)
        k, v = pool.export(PAGES)
        pool.load((9, 10), k[:, :2], v[:, :2])
        moved = torch.stack(pool.export((10, 9)))
        team.announce(None)
        results[name] = latents, torch.stack((k, v)), moved
    rollout = Rollout.read()
    pool = rollout.pool(team)
    assert isinstance(pool, SpreadPool)
    if rank == 1:
        assert follow(rollout.network, pool, team) > 0
    else:
        parallel = ParallelNetwork(rollout.network, pool, team)
        config = rollout.network.config
        made = rollout.made_by(Generator(parallel, config, rollout.policy, pool, RowsView.make))
        team.announce(None)
        results[GOLDEN] = made, made, made
        (folder / "results").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("parallel")
    code = (
        "import sys; from pathlib import Path; from tests.engine.test_parallel import run_rank; "
        "run_rank(int(sys.argv[1]), Path(sys.argv[2]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)], cwd=ROOT)
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
def test_two_processes_give_the_latents_of_one(results: Results, name: str) -> None:
    policy, latent_hw, config = CASES[name]
    network, pool = network_of(config), pool_of(latent_hw)
    latents, pages, moved = results[name]
    expected = roll(Generator(network, config, policy, pool), network, latent_hw)
    torch.testing.assert_close(latents, expected, atol=2e-5, rtol=1e-4)
    # What leaves the pool has the heads of both, as if there were one.
    torch.testing.assert_close(pages, torch.stack(pool.export(PAGES)), atol=2e-5, rtol=1e-4)
    assert torch.equal(moved, pages[:, :, [1, 0]])


def test_two_processes_give_the_latents_of_the_reference(results: Results) -> None:
    rollout = Rollout.read()
    pool, network = rollout.pool(), rollout.network
    made = results[GOLDEN][0]
    torch.testing.assert_close(made, rollout.vectors["latents"], atol=1e-4, rtol=1e-4)
    alone = rollout.made_by(Generator(network, network.config, rollout.policy, pool))
    torch.testing.assert_close(made, alone, atol=2e-5, rtol=1e-4)


class Alone(Team):
    """One device that notes what it would have told others."""

    told: list[Any]

    def announce(self, message: object) -> None:
        self.told.append(message)

    def share(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def gather(self, value: torch.Tensor) -> list[torch.Tensor]:
        return [value]

    def exchange(self, sent: torch.Tensor) -> torch.Tensor:
        return sent


@torch.inference_mode()
def test_prompts_of_a_batch_are_sent_once() -> None:
    team, latent_hw, network = Alone(0, 1), (4, 6), network_of(CONFIG)
    team.told = []
    pool = pool_of(latent_hw, team)
    prompts = [network.prompt_kv(torch.full((1, 5, 16), float(value))) for value in range(3)]
    parallel = ParallelNetwork(network, pool, team)
    generator = Generator(
        parallel, CONFIG, POLICY, pool, RowsView.make, guidance=Guidance(2.0, prompts[2])
    )
    streams = [stream for _ in range(2) if (stream := generator.open(latent_hw)) is not None]
    noise = torch.randn(2, 2, 2, 16, *latent_hw)

    def sent(*which: int) -> int:
        team.told.clear()
        generator.chunk(
            streams, 2, [prompts[index] for index in which], [False] * 2, Sampler().schedule(2, 1),
            noise.__getitem__,
        )  # fmt: skip
        return sum(call.prompt_shape is not None for call in team.told)

    # Two prompts and two empty ones; the same again; other prompts.
    assert [sent(0, 1), sent(0, 1), sent(1, 0), sent(0, 1)] == [2, 0, 1, 0]


def test_a_device_keeps_its_share_of_the_heads() -> None:
    whole, own = pool_of((4, 6)), pool_of((4, 6), Team(0, 2))
    assert own.k.nbytes * 2 == whole.k.nbytes
    assert own.k.shape[3] == 2
    assert own.exported_shape(3) == whole.exported_shape(3) == (2, 3, 6, 4, 12)
