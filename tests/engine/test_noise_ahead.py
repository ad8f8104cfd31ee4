"""Noise drawn ahead is the noise drawn on the spot."""

import threading
from collections.abc import Iterator

import pytest
import torch

from engine.noise_ahead import NoiseAhead
from models.noise import noise

SHAPE = (3, 16, 2, 4)


@pytest.fixture
def calls() -> list[tuple[int, int, int]]:
    return []


@pytest.fixture
def ahead(calls: list[tuple[int, int, int]]) -> Iterator[NoiseAhead]:
    lock = threading.Lock()

    def draw(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        with lock:
            calls.append((seed, chunk, step))
        return noise(seed, chunk, step, shape)

    drawer = NoiseAhead(2, draw)
    drawer.keep(6)
    yield drawer
    drawer.close()


def test_every_draw_has_the_values_of_its_place(ahead: NoiseAhead) -> None:
    for chunk in (0, 1, 2, 7, 8, 3):
        for step in range(3):
            for seed in (5, 6):
                drawn = ahead(seed, chunk, step, SHAPE)
                assert torch.equal(drawn, noise(seed, chunk, step, SHAPE))


def test_a_stream_in_order_draws_nothing_twice(
    ahead: NoiseAhead, calls: list[tuple[int, int, int]]
) -> None:
    for chunk in range(5):
        for step in range(3):
            ahead(5, chunk, step, SHAPE)
    ahead.close()
    assert len(calls) == len(set(calls)) >= 15


def test_what_was_drawn_for_streams_that_ended_is_forgotten(ahead: NoiseAhead) -> None:
    for seed in range(20):
        ahead(seed, 0, 0, SHAPE)
    assert len(ahead._drawn) == 6
    ahead.keep(4)
    assert len(ahead._drawn) == 4
