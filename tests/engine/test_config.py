from dataclasses import replace

import pytest
import torch

from engine.config import EngineConfig, free_memory, make_current, plan_memory
from engine.cost_table import CostTable
from engine.engine import Engine
from engine.pixels import Pixels
from models.policy import CachePolicy
from tests.fakes import tiny_test_entry, tiny_test_model
from tests.fakes_engine import fake_model


def test_memory_is_planned_for_the_sessions_wanted_and_never_beyond_its_share():
    model = tiny_test_model(0)
    config = EngineConfig(max_sessions=3, max_jobs=1)
    plan = plan_memory(model, config, 1 << 40)
    assert plan.page_tokens == 8
    assert plan.pages == 1 + 4 * 12
    width, height = model.entry.sizes[0]
    decoder_bytes = model.codec.state_bytes(height, width)
    stream_bytes = 12 * 2 * 2 * 8 * 64 * 4 + decoder_bytes
    small = plan_memory(model, config, int(2.5 * stream_bytes / config.memory_share))
    assert small.pages == 1 + 2 * 12
    assert small.decoder_bytes == 2 * decoder_bytes
    with pytest.raises(ValueError, match="a stream takes"):
        plan_memory(model, config, stream_bytes)


def test_the_page_size_divides_the_frames_of_every_size():
    model = tiny_test_model(0)
    model = replace(model, entry=tiny_test_entry(sizes=((64, 32), (96, 64))))
    assert plan_memory(model, EngineConfig(), 1 << 40).page_tokens == 8
    with pytest.raises(ValueError, match="must divide"):
        plan_memory(model, EngineConfig(page_tokens=5), 1 << 40)


def test_this_machine_has_free_memory():
    assert free_memory(torch.device("cpu")) > 1 << 20


@pytest.mark.parametrize(
    "policy",
    [
        CachePolicy(12, 3, "window", recache="block_causal"),
        CachePolicy(None, 0, "absolute", recache="none"),
        CachePolicy(6, 0, "absolute", recache="every_chunk", keep_sink_on_recache=False),
    ],
    ids=["window", "global", "every_chunk"],
)
def test_the_measurement_leaves_the_pool_empty_and_a_table_of_times(policy):
    ticks = iter(range(10**6))
    model = fake_model(cache=policy)
    engine = Engine(model, EngineConfig(max_sessions=2, max_jobs=0), lambda: float(next(ticks)))
    assert engine.costs.pass_s[1] == 1.0
    assert engine.capacity().pages_in_use == 0
    assert engine.capacity().pages_total == 2 * (policy.window_frames or 21)


def test_an_engine_of_the_real_network_measures_itself():
    ticks = iter(range(10**6))
    config = EngineConfig(max_sessions=2, max_jobs=0)
    engine = Engine(tiny_test_model(0), config, lambda: next(ticks) / 100)
    assert isinstance(engine.costs, CostTable)
    assert engine.generator.pages.in_use == 0


def test_an_encoded_clip_decodes_through_the_streams_own_state():
    model = fake_model()
    engine = Engine(model, EngineConfig(max_sessions=1, max_jobs=0), iter(range(10**6)).__next__)
    stream = engine.generator.open((12, 20))
    pixels = Pixels(model.codec, model.device, kept_frames=5)
    frames = torch.full((9, 96, 160, 3), 90, dtype=torch.uint8)
    latents = pixels.encode(frames.numpy())
    decoded = pixels.decode(stream, latents).result()
    assert decoded.shape == frames.shape
    assert (decoded[-1, :, 20:].int() - 90).abs().max() <= 1
    assert stream.pixels.shape[1] == 5
    assert stream.anchor.shape == (1, 1, 16, 12, 20)


def test_only_a_device_with_a_number_is_made_the_thread_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        make_current(torch.device(name))
    assert chosen == [torch.device("cuda:1")]


def test_what_is_not_set_follows_the_encoder_s_size_and_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    unset, chosen = EngineConfig(), EngineConfig(encode_ahead=True, noise_threads=1)
    assert [unset.embeds_ahead(width) for width in (1024, 4096)] == [False, True]
    assert chosen.embeds_ahead(64)
    assert not EngineConfig(encode_ahead=False).embeds_ahead(4096)
    assert [unset.noise_threads_beside(device) for device in (cpu, gpu)] == [0, 2]
    assert [chosen.noise_threads_beside(device) for device in (cpu, gpu)] == [1, 1]
