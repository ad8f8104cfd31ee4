"""``python -m engine.follower_process PARENT PLACE``: another device's process, see ``follower``.

It lives as long as the process that started it: Linux ends it when that one dies, however it dies;
elsewhere the broken connection does. Linux is asked before torch is loaded, which takes seconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Ask Linux to end this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before Linux was asked; then no signal ever comes.
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    from engine.follower import main

    sys.exit(main(sys.argv[2]))
