"""Puts an engine together from a loaded model: for one device under a policy, or over several.

Knows neither command lines nor settings.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.accelerated import prepare, under
from engine.config import EngineConfig
from engine.cost_table import CostTable
from engine.engine import Engine
from engine.followers import Followers
from engine.work_policy import WorkPolicy
from kernels.interface import Kernels
from models.interface import LoadedModel

__all__ = ["assemble"]


def assemble(
    model: LoadedModel,
    config: EngineConfig,
    clock: Callable[[], float],
    policy: WorkPolicy,
    kernels: Kernels,
    *,
    costs: CostTable | None = None,
    max_steps: int | None = None,
    followers: Followers | None = None,
) -> Engine:
    """Build the engine.

    Args:
        model: as loaded; with ``followers`` already as they run it.
        config: see ``Engine``.
        clock: see ``Engine``.
        policy: what is saved; over several devices its steps, window and sink alone.
        kernels: of the network and the caches of a single device.
        costs: see ``Engine``.
        max_steps: see ``generator_factory``.
        followers: the other devices of every stream; None where there are none.

    Raises:
        ValueError: model and policy do not go together.
    """
    if followers is None:
        model, make = prepare(model, policy, kernels, max_steps=max_steps)
        return Engine(model, config, clock, costs, make_generator=make)
    return Engine(
        under(model, policy),
        config,
        clock,
        costs,
        make_generator=followers.make_generator,
        make_pool=followers.make_pool,
    )
