"""Contact sheets: frames of clips in rows, each under its prompt, for the eyes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_TEXT = 14
_GAP = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a sheet: a text and the frames under it, uint8 ``[n, H, W, 3]``."""

    text: str
    frames: NDArray[np.uint8]


def evenly(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Pick ``count`` frames from the first to the last."""
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def write_sheet(rows: Sequence[Row], path: Path, *, scale: int = 1) -> None:
    """Write rows of equal length as one PNG."""
    count, height, width, _ = rows[0].frames.shape
    wide, tall = width * scale, height * scale
    step = tall + _TEXT + 2 * _GAP
    sheet = Image.new("RGB", (count * (wide + _GAP) + _GAP, len(rows) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = _GAP + number * step
        text = row.text.encode("ascii", "replace").decode()
        draw.text((_GAP, top), text[: sheet.width // 6], fill="black")
        for column, frame in enumerate(row.frames):
            picture = Image.fromarray(frame)
            if scale != 1:
                picture = picture.resize((wide, tall), Image.Resampling.LANCZOS)
            sheet.paste(picture, (_GAP + column * (wide + _GAP), top + _TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
