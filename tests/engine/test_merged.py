"""The clean pass inside the next chunk's first pass gives what two passes give."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.batch import Guidance
from engine.generator import Generator
from engine.merged import MergingGenerator
from models.config import TransformerConfig
from models.paged_kv import KVPool
from models.policy import CachePolicy, Recache, RopeMode
from models.sampler import Sampler
from models.transformer import CausalWan, PromptKV

CONFIG = TransformerConfig(
    dim=32, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=5, freq_dim=16
)
POLICY = CachePolicy(
    window_frames=5, sink_frames=1, chunk_frames=2, recache="block_causal", context_timestep=20.0
)
LATENT_HW = (4, 6)
SCHEDULE = Sampler().schedule(2)


class Counting:
    """A network that counts passes and their frames."""

    def __init__(self, network: CausalWan) -> None:
        self.network = network
        self.frames: list[int] = []

    def __call__(self, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.frames.append(latents.shape[1])
        return self.network(latents, *rest)


@pytest.fixture(scope="module")
def network() -> CausalWan:
    torch.manual_seed(0)
    network = CausalWan(CONFIG).requires_grad_(False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def prompts(network: CausalWan) -> list[PromptKV]:
    generator = torch.Generator().manual_seed(5)
    return [network.prompt_kv(torch.randn(1, 5, 16, generator=generator)) for _ in range(2)]


def generator_of(
    kind: type[Generator], network: Any, policy: CachePolicy, guidance: Guidance | None = None
) -> Generator:
    pool = KVPool(2, 24, 6, 2, 16, torch.float32, "cpu")
    return kind(network, CONFIG, policy, pool, guidance=guidance)


def draw_of(chunk: int, rows: int) -> Any:
    def draw(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 * chunk + step)
        return torch.randn(rows, 2, 16, *LATENT_HW, generator=generator)

    return draw


def roll(
    kind: type[Generator],
    network: Any,
    policy: CachePolicy,
    events: Any,
    guidance: Guidance | None = None,
) -> torch.Tensor:
    """Two streams through chunks; ``events`` gives (streams, prompt, changed) of each."""
    generator = generator_of(kind, network, policy, guidance)
    streams = [generator.open(LATENT_HW) for _ in range(2)]
    texts = prompts(network.network if isinstance(network, Counting) else network)
    out = []
    for chunk, (which, prompt, changed) in enumerate(events):
        chosen = [stream for i in which if (stream := streams[i]) is not None]
        latents = generator.chunk(
            chosen, 2, [texts[prompt]] * len(which), [changed] * len(which), SCHEDULE,
            draw_of(chunk, len(which)),
        )  # fmt: skip
        out.append(latents)
    return torch.cat(out)


ALONE = [((0,), 0, False)] * 6
TOGETHER = [((0, 1), 0, False)] * 5
MIXED = [((0,), 0, False), ((0, 1), 0, False), ((1,), 0, False), ((1, 0), 0, False)] * 2
SWITCH = [*ALONE[:4], ((0,), 1, True), *[((0,), 1, False)] * 3]
SWITCH_WITHOUT_RECACHE = [*ALONE[:4], *[((0,), 1, False)] * 3]


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize(
    "events", [ALONE, TOGETHER, MIXED, SWITCH, SWITCH_WITHOUT_RECACHE],
    ids=["alone", "together", "mixed", "switch", "switch without recache"],
)  # fmt: skip
def test_latents_are_those_of_separate_passes(
    network: CausalWan, rope: RopeMode, events: Any, guided: bool
) -> None:
    policy = replace(POLICY, rope=rope)
    guidance = Guidance(2.5, prompts(network)[1]) if guided else None
    expected = roll(Generator, network, policy, events, guidance)
    actual = roll(MergingGenerator, network, policy, events, guidance)
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=1e-4)


def test_a_chunk_is_one_pass_fewer(network: CausalWan) -> None:
    counting = Counting(network)
    roll(MergingGenerator, counting, POLICY, ALONE[:3])
    assert counting.frames == [2, 2, 4, 2, 4, 2]


def test_a_guided_chunk_is_one_pass_fewer(network: CausalWan) -> None:
    counting = Counting(network)
    guidance = Guidance(2.0, prompts(network)[1])
    roll(MergingGenerator, counting, POLICY, ALONE[:2], guidance)
    assert counting.frames == [2, 2, 2, 2, 4, 2, 2, 2]


@pytest.mark.parametrize("keep_sink", [True, False])
@pytest.mark.parametrize("recache", ["bidirectional", "block_causal"])
def test_a_recache_takes_the_owed_pass_s_place(
    network: CausalWan, recache: Recache, keep_sink: bool
) -> None:
    policy = replace(POLICY, recache=recache, keep_sink_on_recache=keep_sink)
    expected = roll(Generator, network, policy, SWITCH)
    counting = Counting(network)
    actual = roll(MergingGenerator, counting, policy, SWITCH)
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=1e-4)
    # Four chunks, the window's five frames at once, the chunk of the switch.
    assert counting.frames[:11] == [2, 2, 4, 2, 4, 2, 4, 2, 5, 2, 2]


@torch.inference_mode()
def test_a_fork_is_settled_first(network: CausalWan) -> None:
    results = []
    for kind in (Generator, MergingGenerator):
        generator = generator_of(kind, network, POLICY)
        stream = generator.open(LATENT_HW)
        assert stream is not None
        texts = prompts(network)
        for chunk in range(2):
            generator.chunk([stream], 2, texts[:1], [False], SCHEDULE, draw_of(chunk, 1))
        twin = generator.fork(stream)
        results.append(
            torch.cat(
                [
                    generator.chunk([one], 2, texts[:1], [False], SCHEDULE, draw_of(9, 1))
                    for one in (twin, stream)
                ]
            )
        )
    torch.testing.assert_close(results[1], results[0], atol=5e-5, rtol=1e-4)
