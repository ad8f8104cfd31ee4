"""Draws on the host, from a generator of the caller's: a device is never waited for."""

import torch


def below(limit: int, draw: torch.Generator) -> int:
    """Return one of 0 to ``limit - 1``, each as likely; ``draw`` is on the host."""
    return int(torch.randint(limit, (), generator=draw))


def happens(share: float, draw: torch.Generator) -> bool:
    """Return True in ``share`` of the cases; ``draw`` is on the host."""
    return torch.rand((), generator=draw).item() < share
