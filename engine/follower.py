"""What the process of a device other than the first does, from its start to its end.

``engine/followers.py`` starts it. It gets the network's sizes and weights from device 0, then does
what that announces.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from engine.parallel import follow
from engine.spread_pool import SpreadPool
from engine.team import Team, meet
from engine.welcome import Place, PoolShape, Weights, share_weights
from kernels.select import Target, select
from models.accelerate import accelerate
from models.transformer import CausalWan

__all__ = ["main"]


def main(text: str) -> int:
    """Follow to the end, from the ``Place`` in ``text``; return the exit status."""
    place = Place.from_text(text)
    # Whoever stops a server may signal all its processes; this one ends when device 0 is done.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    device = torch.device(place.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        team = meet(Path(place.folder), place.rank, place.devices, device, place.exchange_s)
        _follow(team, device)
        dist.destroy_process_group()
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        print(f"error: tensor device {place.rank}: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _follow(team: Team, device: torch.device) -> None:
    weights = team.hear()
    if weights is None:
        return
    assert isinstance(weights, Weights), weights
    target = Target(device, weights.dtype, weights.config.head_dim)
    kernels = select(target, weights.backend)
    with torch.device("meta"):
        network = CausalWan(weights.config, kernels).to(weights.dtype)
    network = network.to_empty(device=device).requires_grad_(False).eval()
    share_weights(team, network)
    if device.type == "cuda":
        accelerate(network, kernels)
    shape = team.hear()
    if shape is None:
        return
    assert isinstance(shape, PoolShape), shape
    pool = SpreadPool(
        team,
        shape.layers,
        shape.pages,
        shape.page_tokens,
        shape.heads,
        shape.head_dim,
        shape.dtype,
        device,
    )
    team.wait_for_all()
    follow(network, pool, team, kernels)
