import itertools

import torch

from engine.dtype import choose_dtype, dtype_named


def clock_with(float32_s, bfloat16_s, repeats=5):
    """A clock whose readings make each product take the given time."""
    steps = itertools.chain(*[(0.0, s) for s in [float32_s] * repeats + [bfloat16_s] * repeats])
    now = 0.0

    def clock():
        nonlocal now
        now += next(steps)
        return now

    return clock


def test_the_faster_dtype_is_chosen_and_float32_at_equal_speed():
    cpu = torch.device("cpu")
    assert choose_dtype(cpu, clock_with(9.0, 1.0)) is torch.bfloat16
    assert choose_dtype(cpu, clock_with(1.0, 9.0)) is torch.float32
    assert choose_dtype(cpu, clock_with(1.0, 1.0)) is torch.float32


def test_an_accelerator_gets_bfloat16_without_measuring():
    assert choose_dtype(torch.device("cuda"), clock_with(1.0, 1.0, 0)) is torch.bfloat16


def test_a_dtype_is_taken_by_its_name_and_measured_only_when_it_is_left_open():
    cpu = torch.device("cpu")
    assert dtype_named("float16", cpu, clock_with(1.0, 1.0, 0)) is torch.float16
    assert dtype_named("auto", cpu, clock_with(9.0, 1.0)) is torch.bfloat16
