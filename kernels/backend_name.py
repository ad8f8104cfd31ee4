"""Names of the kernels that can be asked for; nothing is imported, so any process can check one."""

from typing import Literal

__all__ = ["BackendName", "Wanted"]

BackendName = Literal["torch", "sdpa", "cudnn", "flash", "triton"]
Wanted = BackendName | Literal["auto"]
