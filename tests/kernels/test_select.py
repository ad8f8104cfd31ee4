"""Which kernels can run where, and what is said when the wanted ones cannot."""

import importlib.util
import sys
from typing import get_args

import pytest
import torch

from kernels import select as module
from kernels.backend_name import BackendName
from kernels.select import KernelsUnavailableError, Target, choose, report, select
from kernels.torch_backend import TorchKernels

CPU = Target(torch.device("cpu"), torch.float32, 64)
H200 = Target(torch.device("cuda"), torch.bfloat16, 128)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch claim a Hopper GPU; nothing is run on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)


@pytest.fixture
def no_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name.startswith("flash_attn") else real(name, package)

    monkeypatch.setattr(module.importlib.util, "find_spec", find)


def test_a_cpu_runs_torch_and_sdpa_and_every_backend_has_a_reason() -> None:
    statuses = report(CPU)
    assert [status.name for status in statuses] == list(get_args(BackendName))
    assert [status.name for status in statuses if status.usable] == ["torch", "sdpa"]
    assert all(status.reason for status in statuses)


def test_auto_on_a_cpu_is_plain_torch() -> None:
    kernels = select(CPU)
    assert isinstance(kernels, TorchKernels)
    assert kernels.name == "sdpa"


def test_a_backend_that_cannot_run_is_an_error_that_says_what_can() -> None:
    with pytest.raises(KernelsUnavailableError) as raised:
        select(CPU, "triton")
    assert str(raised.value) == (
        'kernels "triton" on cpu, float32, head size 64: it needs a CUDA device, this is cpu; '
        "what can run here is torch, sdpa; choose one of them, or auto"
    )


def test_an_unknown_backend_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(KernelsUnavailableError, match='kernels "xformers"; known are torch, sdpa'):
        select(CPU, "xformers")  # type: ignore[arg-type]


@pytest.mark.usefixtures("hopper", "no_flash")
def test_what_is_missing_is_named() -> None:
    reasons = {status.name: status for status in report(H200)}
    assert not reasons["flash"].usable
    assert "not installed" in reasons["flash"].reason
    assert reasons["cudnn"].usable
    with pytest.raises(KernelsUnavailableError, match=r"NVIDIA H200, sm_90.*not installed"):
        select(H200, "flash")


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("target", "name", "reason"),
    [
        (Target(H200.device, torch.bfloat16, 96), "triton", "powers of two"),
        (Target(H200.device, torch.bfloat16, 256), "cudnn", "up to 128"),
        (Target(H200.device, torch.float32, 128), "cudnn", "not float32"),
    ],
)
def test_head_sizes_and_dtypes_are_checked(target: Target, name: str, reason: str) -> None:
    status = {status.name: status for status in report(target)}[name]  # type: ignore[index]
    assert not status.usable
    assert reason in status.reason


def test_an_old_gpu_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    reasons = {status.name: status.reason for status in report(H200)}
    assert reasons["triton"] == "it needs sm_80 or newer, this is sm_75"


@pytest.mark.usefixtures("hopper", "no_flash")
def test_auto_takes_the_first_of_its_list_that_can_run() -> None:
    assert choose(H200) == "triton"
    assert choose(Target(H200.device, torch.bfloat16, 96)) == "cudnn"
    assert choose(Target(H200.device, torch.float32, 96)) == "sdpa"


@pytest.mark.usefixtures("hopper")
def test_a_flash_attn_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, package=None: object() if name == "flash_attn" else real(name, package),
    )
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    status = {line.name: line for line in report(H200)}["flash"]
    assert not status.usable
    assert "flash_attn" in status.reason
