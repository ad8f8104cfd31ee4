"""Starts, watches and ends the processes of the devices that share this process's streams.

This process is device 0. It gives the others the network's weights as they are in its memory, so
nothing is read twice and nothing can differ. A device that is lost takes its heads of every
stream with it: then this process says so in one line and ends at once, as if it had been killed,
and whoever watches it starts it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from engine.generator import Generator, guidance_of
from engine.parallel import ParallelNetwork, RowsView
from engine.spread_pool import SpreadPool
from engine.team import EXCHANGE_S, INTERFACES, Team, meet
from engine.welcome import Place, PoolShape, Weights, share_weights
from kernels.backend_name import Wanted
from kernels.interface import Kernels
from models.interface import LoadedModel
from models.paged_kv import KVPool

__all__ = ["Followers", "devices_from", "end_process"]

PATIENCE_S = 5.0
"""How long a device may take to end when asked."""
NOTICE_S = 2.0
"""How long a failed exchange waits for the end of another process, which would explain it."""


def devices_from(first: torch.device, count: int) -> list[torch.device]:
    """Return ``count`` devices beginning with ``first``; on the CPU all are the same.

    Raises:
        ValueError: there are not so many.
    """
    if count == 1 or first.type == "cpu":
        return [first] * count
    if first.type != "cuda":
        raise ValueError(
            f"{count} tensor devices on {first}; CUDA devices and the CPU can share a stream; "
            "choose 1 or another device"
        )
    start, there = first.index or 0, torch.cuda.device_count()
    if start + count > there:
        raise ValueError(
            f"{count} tensor devices from cuda:{start} on; this machine has {there} CUDA devices; "
            f"choose at most {max(1, there - start)}"
        )
    return [torch.device("cuda", start + rank) for rank in range(count)]


def end_process(sentence: str) -> None:
    """Say why and end this process at once, without a word to anybody else."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {sentence}\n".encode())
    os._exit(1)


class Followers:
    """The devices other than this process's own. Use it as a context manager, or ``close`` it.

    Called by one thread at a time: the main thread starts it, the engine's thread uses it, and it
    is closed when that has ended. On Linux the thread that calls ``start`` must outlive it: the
    others end with that thread.
    """

    def __init__(
        self, devices: int, report: Callable[[str], None], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self._devices, self._report, self._folder = devices, report, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._kernels: Kernels | None = None
        self._team: Team | None = None
        self._closing, self._noticed = threading.Event(), threading.Event()
        self._once = threading.Lock()
        self._threads = torch.get_num_threads()
        self._environment = {name: os.environ.get(name) for name in INTERFACES}

    @classmethod
    def start(
        cls,
        model: LoadedModel,
        devices: int,
        *,
        kernels: Kernels | None = None,
        backend: Wanted = "auto",
        report: Callable[[str], None] = end_process,
        exchange_s: float = EXCHANGE_S,
    ) -> Followers:
        """Start a process for every other device and give it the network.

        Args:
            model: as it was loaded, before ``models.accelerate`` changed its network.
            devices: how many share a stream, this one included; see ``engine.bands``.
            kernels: that this device runs the network on; default plain torch.
            backend: what was asked for here; the others choose by it too.
            report: told in one sentence when a device is lost; should end this process.
            exchange_s: longest time for an exchange of tensors.

        Raises:
            ValueError: there are not so many devices.
            RuntimeError: they did not find one another.
        """
        places = devices_from(model.device, devices)
        followers = cls(devices, report, tempfile.TemporaryDirectory(prefix="longtake-"))
        threads = followers._threads
        if model.device.type == "cpu":
            # They share the cores.
            threads = max(1, threads // devices)
            torch.set_num_threads(threads)
        try:
            for rank in range(1, devices):
                place = Place(
                    rank,
                    devices,
                    str(places[rank]),
                    followers._folder.name,
                    threads,
                    exchange_s,
                )
                followers._spawn(place)
            followers._lead(model, kernels, backend, exchange_s)
        except BaseException:
            followers.close()
            raise
        return followers

    def make_pool(
        self,
        layers: int,
        pages: int,
        page_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVPool:
        """Make every device's part of the pool; see ``engine.engine.MakePool``."""
        assert self._team is not None
        sizes = (layers, pages, page_tokens, heads, head_dim, dtype)
        with self._team.in_step():
            self._team.announce(PoolShape(*sizes))
            pool = SpreadPool(self._team, *sizes, device)
            self._team.wait_for_all()
        return pool

    def make_generator(self, model: LoadedModel, pool: KVPool) -> Generator:
        """Build the generator over all devices; chunks run eagerly, see ``engine.parallel``."""
        assert isinstance(pool, SpreadPool), "the engine's make_pool is ours"
        assert self._team is not None
        entry = model.entry
        network = ParallelNetwork(model.transformer, pool, self._team, self._kernels)
        guidance = guidance_of(model)
        return Generator(
            network, entry.transformer, entry.cache, pool, RowsView.make, guidance=guidance
        )

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the other devices, by rank."""
        return tuple(process.pid for process in self._processes)

    def close(self) -> None:
        """Let the other processes end, and end those that do not; no exchange may be going on.

        This process has its number of threads and its environment back afterwards.
        """
        self._closing.set()
        if self._team is not None:
            with contextlib.suppress(RuntimeError):
                self._team.announce(None)
        for process in self._processes:
            try:
                process.wait(PATIENCE_S if self._team is not None else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._team is not None:
            self._team = None
            dist.destroy_process_group()
        self._folder.cleanup()
        torch.set_num_threads(self._threads)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def __enter__(self) -> Followers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _spawn(self, place: Place) -> None:
        """Start one process, in a session of its own: Ctrl-C reaches this process alone."""
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.follower_process", str(os.getpid()), place.to_text()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._processes.append(process)
        watch = threading.Thread(
            target=self._watch, args=(place.rank, process), name="followers", daemon=True
        )
        watch.start()

    def _lead(
        self, model: LoadedModel, kernels: Kernels | None, backend: Wanted, exchange_s: float
    ) -> None:
        network, folder = model.transformer, Path(self._folder.name)
        self._team = meet(folder, 0, self._devices, model.device, exchange_s)
        self._team.on_failure = self._out_of_step
        self._kernels = kernels
        with self._team.in_step():
            self._team.announce(Weights(network.config, model.dtype, backend))
            share_weights(self._team, network)

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        if not self._closing.is_set():
            self._lost(
                f"tensor device {rank} of {self._devices} is lost, its process ended {how}; its "
                "part of every stream is gone; start again"
            )

    def _out_of_step(self, error: Exception) -> None:
        """Explain a failed exchange by the end of a process, if there was one."""
        if self._closing.is_set():
            return
        if not self._noticed.wait(NOTICE_S):
            reason = " ".join(str(error).split())
            self._lost(f"{self._devices} tensor devices are out of step ({reason}); start again")

    def _lost(self, sentence: str) -> None:
        """Report once; whoever comes second waits here until the process has ended."""
        with self._once:
            if not self._noticed.is_set():
                self._folder.cleanup()
                self._report(sentence)
                self._noticed.set()
