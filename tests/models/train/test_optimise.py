from itertools import pairwise

import torch
from torch import nn

from models.train.optimise import Average, Optimiser, learning_rate


def test_small_steps_are_not_lost_on_half_precision_weights() -> None:
    layer = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimiser = Optimiser([layer], peak=1e-4, weight_decay=0.0)
    for _ in range(200):
        layer(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        optimiser.step(0.5)
    # Each step is far below the spacing of bfloat16 at 1; together they are not.
    assert (layer.weight < 0.995).all()


def test_the_state_of_half_precision_training_survives_a_restart() -> None:
    def build() -> tuple[nn.Linear, Optimiser]:
        torch.manual_seed(0)
        layer = nn.Linear(4, 2, dtype=torch.bfloat16)
        return layer, Optimiser([layer], peak=1e-2)

    def step(layer: nn.Linear, optimiser: Optimiser) -> None:
        layer(torch.ones(3, 4, dtype=torch.bfloat16)).square().sum().backward()
        optimiser.step(0.5)

    first, optimiser = build()
    step(first, optimiser)
    saved = optimiser.state_dict()
    second, restored = build()
    restored.load_state_dict(saved)
    step(first, optimiser)
    step(second, restored)
    assert torch.equal(first.weight, second.weight)


def test_muon_takes_the_matrices_of_blocks_and_nothing_else() -> None:
    module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 8)]), "head": nn.Linear(8, 8)})
    optimiser = Optimiser([module], peak=1e-2, muon=True)
    taken = [p for part in optimiser._parts[1:] for g in part.param_groups for p in g["params"]]
    assert len(taken) == 1
    assert taken[0] is module["blocks"][0].weight


def test_the_rate_warms_up_and_falls() -> None:
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == rates[2] == 1.0
    assert all(a >= b for a, b in pairwise(rates[2:]))
    assert 0 < rates[-1] < 0.1


def test_the_average_follows_and_is_float32() -> None:
    layer = nn.Linear(2, 2, dtype=torch.bfloat16)
    average = Average(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    for _ in range(100):
        average.update(layer)
    held = next(average.module.parameters())
    assert held.dtype == torch.float32
    torch.testing.assert_close(held, torch.full_like(held, 3.0), atol=0.05, rtol=0)
