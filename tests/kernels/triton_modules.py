"""Load modules of Triton kernels for tests: on the GPU when there is one, else interpreted.

Triton decides when a kernel is defined whether it will be interpreted, from an environment
variable that this module sets only while it imports. On a machine with a GPU the same tests
run compiled. Without Triton they are skipped, and fail when LONGTAKE_REQUIRE_TRITON is set.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs a CUDA device; elsewhere it is skipped."""
    skip = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
    return pytest.mark.gpu(skip(test))


def _interpreted() -> bool:
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(sys.modules["triton.language.standard"].cdiv, InterpretedFunction)


def load(name: str) -> ModuleType:
    """Import ``kernels.<name>``; its kernels run on ``DEVICE``."""
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("LONGTAKE_REQUIRE_TRITON"):
            pytest.fail("LONGTAKE_REQUIRE_TRITON is set but triton is not installed")
        pytest.skip("triton is not installed", allow_module_level=True)
    if DEVICE.type == "cuda":
        return importlib.import_module(f"kernels.{name}")
    if "triton" in sys.modules and not _interpreted():
        for module in [m for m in sys.modules if m.split(".")[0] == "triton"]:
            del sys.modules[module]
        for module in [m for m in sys.modules if m.startswith("kernels.triton")]:
            del sys.modules[module]
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        importlib.import_module("triton.experimental.gluon")  # else imported lazily, too late
        return importlib.import_module(f"kernels.{name}")
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
