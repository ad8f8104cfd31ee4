"""A progress bar of one line on a terminal; plain lines elsewhere. Pure text and a stream."""

import shutil
from typing import TextIO


class Bar:
    """Draws how far something is."""

    def __init__(self, out: TextIO, label: str) -> None:
        """Begin a bar.

        Args:
            out: Where to; a terminal gets one line that is redrawn.
            label: What is being done.
        """
        self._out = out
        self._label = label
        self._redraws = out.isatty()
        self._drawn = ""

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """Draw the state; ``total`` None is a length nobody knows.

        Somewhere else than on a terminal a line is written for every tenth only.
        """
        if not self._redraws:
            tenth = "" if total is None else f"{10 * done // max(total, 1) * 10} %"
            if tenth and tenth != self._drawn:
                self._drawn = tenth
                self._out.write(f"{self._label}: {tenth} {note}".rstrip() + "\n")
                self._out.flush()
            return
        line = render(self._label, done, total, note, shutil.get_terminal_size().columns - 1)
        self._out.write(f"\r{line}\x1b[K")
        self._out.flush()
        self._drawn = line

    def say(self, text: str) -> None:
        """Write a line of its own above the bar."""
        if self._redraws and self._drawn:
            self._out.write(f"\r{text}\x1b[K\n{self._drawn}")
        else:
            self._out.write(f"{text}\n")
        self._out.flush()

    def close(self) -> None:
        """Leave the bar as it is and begin a new line."""
        if self._redraws and self._drawn:
            self._out.write("\n")
            self._out.flush()


def render(label: str, done: int, total: int | None, note: str, columns: int) -> str:
    """Return the line: label, bar, percent, note; the bar takes what is left of the width."""
    if total is None:
        return f"{label}  {done}  {note}"[:columns]
    share = min(1.0, done / max(total, 1))
    tail = f" {int(100 * share):3d} %  {note}".rstrip()
    width = max(0, min(40, columns - len(label) - len(tail) - 4))
    filled = int(width * share)
    bar = f" [{'#' * filled}{'.' * (width - filled)}]" if width > 4 else ""
    return f"{label}{bar}{tail}"[:columns]
