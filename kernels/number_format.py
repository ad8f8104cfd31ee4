"""Names of the formats that products can be computed in; nothing is imported, as for ``backend_name``."""

from typing import Literal

__all__ = ["NumberFormat"]

NumberFormat = Literal["plain", "fp8"]
"""``plain`` is the dtype of the weights."""
