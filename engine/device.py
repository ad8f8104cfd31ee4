"""The device that a command line names."""

from __future__ import annotations

import re

import torch

NAMES = re.compile(r"auto|cpu|mps|cuda(?::(\d+))?")


def open_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: It is not there, or no name of a device.
    """
    found = NAMES.fullmatch(name)
    if found is None:
        raise ValueError(f"--device {name}; use auto, cpu, cuda, cuda:1 or mps")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        # torch may know of a device that its driver cannot use, and wraps large numbers.
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(found[1] or 0) >= count:
            raise ValueError(
                f"--device {name}; this machine has {count} CUDA devices; use --device cpu or auto"
            )
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps; this machine has none; use --device cpu or auto")
    return torch.device(name)
