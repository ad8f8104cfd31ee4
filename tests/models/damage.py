"""Ways in which files on a disk are bad, done to a model folder in the project's layout.

Each takes the folder and returns what ``--model`` is to be and what the error must say.
"""

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RAN = "ran-code"
"""Name of the file that the hostile pickle makes where its code runs."""


class Hostile:
    """A pickled object that makes a file when it is read carelessly."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self):
        return Path.touch, (self._target,)


def truncated(folder):
    path = folder / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder, f"{path} is not a whole safetensors file"


def empty(folder):
    path = folder / "text.safetensors"
    path.write_bytes(b"")
    return folder, f"{path} is not a whole safetensors file"


def junk(folder):
    path = folder / "codec.safetensors"
    path.write_bytes(b"\xff" * 5000)
    return folder, f"{path} is not a whole safetensors file"


def wrong_shape(folder):
    path = folder / "transformer.safetensors"
    save_file({**load_file(path), "head.head.bias": torch.zeros(3)}, path)
    return folder, "wrong shape: head.head.bias (3,) where (64,) is needed"


def missing_tensor(folder):
    path = folder / "codec.safetensors"
    tensors = load_file(path)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, path)
    return folder, f"missing: {lost}"


def pickle_that_runs_code(folder):
    path = folder.parent / "mine.pt"
    torch.save({"generator": Hostile(folder.parent / RAN)}, path)
    return f"longtake-tiny@{path}", f"{path} was not read: it is damaged, or holds more than"


def old_pickle_that_runs_code(folder):
    path = folder.parent / "mine.pt"
    path.write_bytes(pickle.dumps(Hostile(folder.parent / RAN)))
    return f"longtake-tiny@{path}", f"{path} was not read: it is damaged, or holds more than"


def no_pickle(folder):
    path = folder.parent / "mine.pt"
    path.write_bytes(b"junk")
    return f"longtake-tiny@{path}", f"{path} was not read: it is damaged, or holds more than"


def no_tokenizer(folder):
    (folder / "tokenizer.model").unlink()
    return folder, f"{folder} lacks tokenizer.model"


def damaged_tokenizer(folder):
    (folder / "tokenizer.model").write_bytes(b"junk")
    return folder, f"{folder / 'tokenizer.model'} is not a sentencepiece model"


def damaged_card(folder):
    (folder / "card.json").write_text('{"model": ')
    return folder, "card.json does not describe a model"


def no_such_model(folder):
    return "no-such-model", "known are longtake-tiny, wan2.1-1.3b-self-forcing"


def not_fetched(folder):
    return "longlive-1.3b", "run `python -m server fetch longlive-1.3b`"


ALL = (
    truncated,
    empty,
    junk,
    wrong_shape,
    missing_tensor,
    pickle_that_runs_code,
    old_pickle_that_runs_code,
    no_pickle,
    no_tokenizer,
    damaged_tokenizer,
    damaged_card,
    no_such_model,
    not_fetched,
)
