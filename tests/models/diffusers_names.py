"""Parameter names that diffusers gives a Wan transformer, from those of the original release."""

import re

from models.names import BLOCK, TOP

_TOP = {ours: theirs for theirs, ours in TOP.items()}
_BLOCK = {ours: theirs for theirs, ours in BLOCK.items()}


def to_diffusers(name: str) -> str:
    """Translate the name of a parameter that the network has."""
    start, rest, table = "", name, _TOP
    if inside := re.fullmatch(r"(blocks\.\d+\.)(.+)", name):
        start, rest, table = inside[1], inside[2], _BLOCK
    if rest in table:  # a parameter with no module of its own
        return start + table[rest]
    module, dot, leaf = rest.rpartition(".")
    return start + table[module] + dot + leaf
