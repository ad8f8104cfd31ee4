"""Write the manifest of a folder of vectors: ``python -m tests.parity.manifest DIR``."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open


def describe(file: Path) -> dict[str, Any]:
    """Hash, size and, for files of tensors, what is in them (weights: how many)."""
    content = file.read_bytes()
    entry: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            names = sorted(tensors.keys())
            slices = {name: tensors.get_slice(name) for name in names}
            entry["tensors"] = (
                len(names)
                if file.name == "weights.safetensors"
                else {n: [s.get_dtype(), *s.get_shape()] for n, s in slices.items()}
            )
    return entry


def write_manifest(folder: Path) -> None:
    """Describe every vector file in the subfolders of ``folder`` that hold any."""
    groups = sorted({file.parent for file in folder.glob("*/*.safetensors")})
    files = sorted(
        file
        for group in groups
        for file in group.iterdir()
        if file.suffix in (".safetensors", ".json")
    )
    entries = {file.relative_to(folder).as_posix(): describe(file) for file in files}
    (folder / "manifest.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    write_manifest(Path(sys.argv[1]))
