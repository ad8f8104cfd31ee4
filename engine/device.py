"""The device that a command line names."""

from __future__ import annotations

import torch

OURS = ("cpu", "cuda", "mps")


def open_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises:
        ValueError: It is not there, or no name of a device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in OURS:
        raise ValueError(f"--device {name}; use auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda":
        # torch may know of a device that its driver cannot use.
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"--device {name}; this machine has {count} CUDA devices; use --device cpu or auto"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps; this machine has none; use --device cpu or auto")
    return device
