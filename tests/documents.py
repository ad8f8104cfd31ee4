"""Reads the project's documents for the tests that hold them against the code."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    name: str
    text: str

    def blocks(self, language: str) -> list[str]:
        """Return the fenced code of one language."""
        return [code for found, code in _FENCE.findall(self.text) if found == language]

    @property
    def prose(self) -> str:
        """The text without fenced code."""
        return _FENCE.sub("", self.text)

    def marked(self) -> list[str]:
        """Return everything in single backticks outside fenced code."""
        return _INLINE.findall(self.prose)

    def commands(self) -> list[str]:
        """Return the shell commands of fenced code and of backticks."""
        lines = [line for block in self.blocks("sh") for line in block.splitlines()]
        lines += [text for text in self.marked() if text.startswith(("python -m ", "make "))]
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def rows(self, first_cell: str) -> dict[str, str]:
        """Return the table whose header begins with ``first_cell``: first cell to the rest."""
        lines = iter(self.text.splitlines())
        for line in lines:
            if line.startswith(f"| {first_cell} |"):
                break
        else:
            raise AssertionError(f"{self.name} has no table with a first column {first_cell!r}")
        assert set(next(lines)) <= set("|- "), f"{self.name}: no line of dashes under {line}"
        found: dict[str, str] = {}
        for line in lines:
            if not line.startswith("|"):
                break
            first, _, rest = line.strip("| ").partition("|")
            found[first.strip()] = rest.strip()
        return found


def read(name: str) -> Document:
    """Read a document by its path from the root."""
    return Document(name, (ROOT / name).read_text(encoding="utf-8"))
