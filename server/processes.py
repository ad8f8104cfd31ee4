"""Child processes that never outlive us.

``Child`` is one process of the server with its own name, restarted by ``server.launch``. Knows not
what the processes do.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None]:
    """Return what a child calls before exec, so that Linux ends it when this process dies."""
    parent = os.getpid()

    def ask() -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            # The parent may have died before Linux was asked; then no signal ever comes.
            if os.getppid() != parent:
                os._exit(1)

    return ask


class Child:
    """One process of ours. It gets no terminal signals: Ctrl-C reaches the supervisor alone."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> None:
        """Prepare a process; ``descriptors`` are open files it inherits."""
        self.name = name
        self._descriptors = tuple(descriptors)
        self._words = list(words)
        self._variables = dict(variables)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process, or start it again."""
        self._process = await asyncio.create_subprocess_exec(
            *self._words,
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            pass_fds=self._descriptors,
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return None if self._process is None else self._process.pid

    async def ended(self) -> int:
        """Wait until it ends and return its exit status, negative for a signal."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, patience_s: float) -> None:
        """Ask it to end, and end it when it has not after ``patience_s``."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), patience_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def words_for_exit(status: int) -> str:
    """Return how a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
