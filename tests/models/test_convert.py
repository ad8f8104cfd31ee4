"""Conversion: one safetensors file that loads as the same model, whole or not at all."""

import errno

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models import card as cards
from models import convert as converting
from models import loading
from models.checkpoint import CheckpointError
from models.convert import convert, write_safetensors
from models.loading import load_model
from models.registry import find
from tests.models import formats


@pytest.fixture
def longlive(tmp_path, monkeypatch):
    """A cache with a small LongLive, and the weights it stands for."""

    def find_small(name):
        return find(name) if name == "longtake-tiny" else formats.shrunk(name)

    monkeypatch.setattr(loading, "find", find_small)
    monkeypatch.setattr(cards, "find", find_small)
    cache = tmp_path / "cache"
    entry = find_small("longlive-1.3b")
    formats.write_shared_parts(entry, cache)
    weights = formats.transformer_weights()
    peft, merged = formats.lora_pair(weights, rank=4)
    torch.save(
        {"generator": formats.wrapped(weights, "fsdp")}, formats.place(entry.checkpoint.file, cache)
    )
    torch.save({"generator_lora": peft}, formats.place(entry.lora.file, cache))
    return cache, merged


def test_a_converted_model_is_the_model(longlive, tmp_path):
    cache, merged = longlive
    told = []
    out = tmp_path / "out"
    file = convert(
        "longlive-1.3b",
        out,
        cache_dir=cache,
        dtype=torch.float32,
        progress=lambda name, done, total: told.append((done, total)),
    )
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "transformer.safetensors"]
    got = load_file(file)
    assert set(got) == set(merged)
    for name, tensor in merged.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-6, rtol=1e-6)
    assert told[-1][0] == told[-1][1] == sum(t.nbytes for t in merged.values())
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    model = load_model(str(out), cache_dir=cache)
    direct = load_model("longlive-1.3b", cache_dir=cache)
    assert model.entry == direct.entry
    for ours, theirs in zip(
        model.transformer.parameters(), direct.transformer.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_default_dtype_is_bfloat16(longlive, tmp_path):
    file = convert("longlive-1.3b", tmp_path / "out", cache_dir=longlive[0])
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["model"] == "longlive-1.3b"
        assert opened.get_tensor("head.head.weight").dtype == torch.bfloat16


@pytest.mark.parametrize("fails_after", [0, 5])
def test_a_full_disk_leaves_nothing_behind(longlive, tmp_path, monkeypatch, fails_after):
    original = converting.write_safetensors

    def full(path, shapes, tensors, dtype, **options):
        def some():
            for i, item in enumerate(tensors):
                if i == fails_after:
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield item

        original(path, shapes, some(), dtype, **options)

    monkeypatch.setattr(converting, "write_safetensors", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        convert("longlive-1.3b", tmp_path / "out", cache_dir=longlive[0])
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_an_interrupt_leaves_nothing_behind(longlive, tmp_path):
    def interrupt(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert("longlive-1.3b", tmp_path / "out", cache_dir=longlive[0], progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_folder_with_files_is_not_overwritten(longlive, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(CheckpointError, match="is not empty"):
        convert("longlive-1.3b", out, cache_dir=longlive[0])
    assert [path.name for path in out.iterdir()] == ["precious"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_is_what_the_safetensors_library_reads(tmp_path, dtype):
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (1,), (0, 4), (2, 3, 4), ()]
    tensors = {f"t{i}": torch.randn(shape, generator=g).to(dtype) for i, shape in enumerate(shapes)}
    path = tmp_path / "x.safetensors"
    write_safetensors(
        path, {name: t.shape for name, t in tensors.items()}, iter(tensors.items()), dtype
    )
    got = load_file(path)
    assert {name: t.shape for name, t in got.items()} == {n: t.shape for n, t in tensors.items()}
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())
