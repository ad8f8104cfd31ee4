"""What must be in the environment before torch is loaded, for a process that runs an engine.

OpenMP's threads spin while they wait for one another. On a machine whose cores are also used by an
encoder, a gateway or a browser, the one that is waited for is often not running, and every small
operation costs a time slice: chunks took up to twenty times as long. Told to wait passively they
sleep at once, which costs a few per cent on an idle machine.
"""

from __future__ import annotations

import os


def prepare_environment() -> None:
    """Set what the user has not set; must run before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
