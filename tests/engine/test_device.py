import pytest
import torch

from engine.device import open_device


@pytest.fixture
def cuda_devices(monkeypatch):
    """Makes torch see that many CUDA devices."""

    def there_are(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return there_are


def test_a_device_that_is_there_is_returned(cuda_devices):
    cuda_devices(2)
    assert open_device("cpu") == torch.device("cpu")
    assert open_device("cuda") == torch.device("cuda")
    assert open_device("cuda:1") == torch.device("cuda:1")


def test_auto_is_a_gpu_where_there_is_one(cuda_devices):
    cuda_devices(0)
    assert open_device("auto") == torch.device("cpu")
    cuda_devices(1)
    assert open_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:200", 1)]
)
def test_a_gpu_that_is_not_there_is_one_sentence(cuda_devices, name, count):
    cuda_devices(count)
    with pytest.raises(
        ValueError, match=f"--device {name}; this machine has {count} CUDA devices; use"
    ):
        open_device(name)


def test_a_gpu_that_torch_cannot_use_does_not_count(cuda_devices, monkeypatch):
    cuda_devices(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="this machine has 0 CUDA devices"):
        open_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu:3", "mps:9", "meta", "xpu"])
def test_a_name_of_no_device_is_told_what_there_is(name):
    with pytest.raises(ValueError, match="use auto, cpu, cuda, cuda:1 or mps"):
        open_device(name)


def test_a_metal_device_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert open_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device mps; this machine has none"):
        open_device("mps")
