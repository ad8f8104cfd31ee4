"""The devices that share every stream, as processes of one machine that exchange tensors.

Device 0 leads: it announces what is to be done, then all do the same with their own part
(``torch.distributed``: NCCL between GPUs, gloo on the CPU). They find each other through a file in
a folder of their own and talk over the loopback interface alone. What is announced, and why,
this module does not know.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["EXCHANGE_S", "INTERFACES", "Team", "meet"]

MEETING_S = 300.0
"""How long the processes wait for one another at the start, each having torch to load and memory
to take."""
EXCHANGE_S = 120.0
"""How long an exchange of tensors may take. All devices do equal work: who waits so long waits
for one that hangs."""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables that name the network interface to talk over; ``meet`` sets them."""
IDLE = timedelta(days=365)
"""How long the others wait for an announcement: nobody may watch for days."""


@dataclass(slots=True)
class Team:
    """One device's place among all.

    Attributes:
        rank: 0 leads.
        devices: how many there are.
        control: processes, for announcements; None is every process.
        data: the same for tensors.
        on_failure: called by device 0 when a step failed half-way, after which the devices are no
            longer in step and nothing can go on; it need not return.
    """

    rank: int
    devices: int
    control: dist.ProcessGroup | None = None
    data: dist.ProcessGroup | None = None
    on_failure: Callable[[Exception], None] | None = None

    def announce(self, message: object) -> None:
        """Tell all other devices what comes next; ``message`` can be pickled."""
        dist.broadcast_object_list([message], src=0, group=self.control)

    def hear(self) -> object:
        """Wait for the next announcement."""
        heard: list[object] = [None]
        dist.broadcast_object_list(heard, src=0, group=self.control)
        return heard[0]

    def wait_for_all(self) -> None:
        """Wait until every device has come so far, with whatever it has to prepare."""
        dist.barrier()

    def share(self, value: Tensor) -> Tensor:
        """Give every device the values of device 0; elsewhere ``value`` is overwritten."""
        value = value.contiguous()
        dist.broadcast(value, src=0, group=self.data)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every device's ``value``, all of one shape, by rank."""
        value = value.contiguous()
        parts = [torch.empty_like(value) for _ in range(self.devices)]
        dist.all_gather(parts, value, group=self.data)
        return parts

    def exchange(self, sent: Tensor) -> Tensor:
        """Send part i of ``[R, ...]`` to device i; what came from device i is part i."""
        if dist.get_backend(self.data) == "nccl":
            received = torch.empty_like(sent)
            dist.all_to_all_single(received, sent, group=self.data)
            return received
        # gloo has no all-to-all: gather everything and keep what was meant for this device.
        return torch.stack([part[self.rank] for part in self.gather(sent)])

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Enclose what device 0 announces and does; a failure in it ends the team."""
        try:
            yield
        except Exception as error:
            if self.on_failure is not None:
                self.on_failure(error)
            raise


def meet(
    folder: Path, rank: int, devices: int, device: torch.device, exchange_s: float = EXCHANGE_S
) -> Team:
    """Wait for all processes and join them.

    Args:
        folder: seen by all of them and by nobody else; its files are needed to the end.
        rank: of this process.
        devices: number of processes.
        device: of this process; decides how tensors are exchanged.
        exchange_s: longest time for an exchange.

    Raises:
        RuntimeError: the others did not come.
    """
    for name in INTERFACES:
        os.environ[name] = _loopback()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=devices,
        timeout=timedelta(seconds=MEETING_S),
    )
    exchange = timedelta(seconds=exchange_s)
    # Who announces waits until it is heard; who hears waits for as long as nothing is to be done.
    control = dist.new_group(backend="gloo", timeout=exchange if rank == 0 else IDLE)
    backend = "nccl" if device.type == "cuda" else "gloo"
    data = dist.new_group(backend=backend, timeout=exchange)
    return Team(rank, devices, control, data)


def _loopback() -> str:
    """Return the name of the loopback interface."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), "lo")
