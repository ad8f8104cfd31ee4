"""Reading weight files: damaged, hostile and ambiguous ones end in one clear error."""

import json
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.checkpoint import (
    CheckpointError,
    Weights,
    assign,
    lora_updates,
    plain_names,
    read_weights,
)
from tests.models import formats

CPU = torch.device("cpu")
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_none(tmp_path):
    trap = tmp_path / "ran"
    for name, save in (
        ("zip.pt", lambda p: torch.save({"generator": Hostile(trap)}, p)),
        ("plain.pkl", lambda p: p.write_bytes(pickle.dumps(Hostile(trap), protocol=2))),
    ):
        save(tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"{name} was not read.*would run code"):
            read_weights(tmp_path / name)
        assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 1, 7, 20, 100, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_one_error(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors"):
        read_weights(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_pickle_is_one_error(tmp_path, keep):
    path = tmp_path / "model.pt"
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.pt was not read"):
        read_weights(path)


def write_in(kind, path):
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
def test_any_damage_is_one_error_or_none(tmp_path, kind):
    """Bytes are changed, lost and added at random places; what cannot be read says so."""
    draw = random.Random(0)
    path = tmp_path / f"model.{'safetensors' if kind == 'safetensors' else 'pt'}"
    write_in(kind, path)
    whole = path.read_bytes()
    refused = []
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            end = at + draw.randint(0, 8)
            content[at:end] = draw.randbytes(draw.randint(0, 8))
        path.write_bytes(content)
        try:
            assign(nn.Linear(3, 2), read_weights(path), device=CPU, dtype=torch.float32)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in told and "\n" not in told for told in refused)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\x80\x02", b"\x80\x02}q", b"(lp0\n", b"PK\x03\x04"]
)
def test_what_never_was_a_pickle_is_one_error(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt was not read"):
        read_weights(path)


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("tree", [{"critic": 1}, [1, 2], {"generator": {}}, {}])
def test_a_pickle_without_a_state_dict_says_what_it_holds(tmp_path, tree):
    torch.save(tree, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="a state dict, or one under"):
        read_weights(tmp_path / "model.pt")


def test_pickles_of_the_old_format_load_too(tmp_path):
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    got = read_weights(tmp_path / "old.pt")
    assert torch.equal(got.tensors["weight"], WEIGHTS["weight"])


def test_a_sharded_checkpoint_is_read_from_its_index_or_folder(tmp_path):
    formats.write_sharded(WEIGHTS, tmp_path, "model", 2)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        got = read_weights(path).tensors
        assert {name: t.tolist() for name, t in got.items()} == {
            name: t.tolist() for name, t in WEIGHTS.items()
        }


def test_a_missing_shard_and_a_lying_index_are_named(tmp_path):
    formats.write_sharded(WEIGHTS, tmp_path, "model", 2)
    index = tmp_path / "model.safetensors.index.json"
    listing = json.loads(index.read_text())
    (tmp_path / listing["weight_map"]["weight"]).unlink()
    with pytest.raises(CheckpointError, match=r"-of-00002\.safetensors does not exist"):
        read_weights(tmp_path)
    listing["weight_map"]["weight"] = listing["weight_map"]["bias"]
    index.write_text(json.dumps(listing))
    with pytest.raises(CheckpointError, match="lacks weight that"):
        read_weights(tmp_path)
    listing["weight_map"]["weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(listing))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_weights(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not the index"):
        read_weights(tmp_path)


def test_a_folder_with_two_checkpoints_asks_for_one(tmp_path):
    for name in ("a", "b"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"2 safetensors checkpoints \(a\.safetensors"):
        read_weights(tmp_path)


def test_wrappers_are_stripped_anywhere_and_collisions_refused():
    names = {
        "model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.ffn.0.weight": "b",
        "module.model._orig_mod.head.head.bias": "h",
    }
    plain = plain_names(Weights(dict.fromkeys(names, torch.zeros(1)), "f"))
    assert set(plain.tensors) == {"blocks.0.ffn.0.weight", "head.head.bias"}
    twice = {"model.x": torch.zeros(1), "x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="f holds x twice"):
        plain_names(Weights(twice, "f"))


def test_assigned_tensors_are_copies_in_the_new_dtype():
    with torch.device("meta"):
        layer = nn.Linear(3, 2)
    assign(layer, Weights(WEIGHTS, "f"), device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(layer.weight, WEIGHTS["weight"])
    assert layer.weight.data_ptr() != WEIGHTS["weight"].data_ptr()
    assert layer.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"x.lora_A.weight": torch.zeros(2, 3)}, r"LoRA of x\.weight has"),
        (
            {"x.lora_A.weight": torch.zeros(2, 3), "x.lora_B.weight": torch.zeros(3, 4)},
            r"LoRA of x\.weight has",
        ),
        ({"x.weight": torch.zeros(2, 3)}, r"x\.weight is not a LoRA matrix"),
    ],
)
def test_half_a_lora_is_refused(tensors, told):
    with pytest.raises(CheckpointError, match=told):
        lora_updates(Weights(tensors, "f"), alpha=2.0)


def test_adapter_names_and_scale_are_read():
    tensors = {
        "base_model.model.model.blocks.0.ffn.0.lora_A.default.weight": torch.ones(4, 3),
        "base_model.model.model.blocks.0.ffn.0.lora_B.default.weight": torch.ones(2, 4),
    }
    (update,) = lora_updates(Weights(tensors, "f"), alpha=2.0).values()
    assert update.scale == 0.5
