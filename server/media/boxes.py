"""ISO base media file format boxes: how to write one, how to walk over them.

Knows sizes and four-letter names only (ISO/IEC 14496-12 section 4.2).
"""

from collections.abc import Iterator


def box(kind: str, *parts: bytes) -> bytes:
    """Return a box holding ``parts`` one after the other."""
    size = 8 + sum(map(len, parts))
    assert len(kind) == 4, f"{kind!r} is not a box type"
    assert size < 1 << 32, f"{kind} box of {size} bytes"
    return b"".join((size.to_bytes(4, "big"), kind.encode("ascii"), *parts))


def full_box(kind: str, version: int, flags: int, *parts: bytes) -> bytes:
    """Return a box that begins with a version and 24 bits of flags."""
    return box(kind, u32(version << 24 | flags), *parts)


def u16(*values: int) -> bytes:
    """Return big-endian 16-bit numbers."""
    return b"".join(value.to_bytes(2, "big") for value in values)


def u32(*values: int) -> bytes:
    """Return big-endian 32-bit numbers."""
    return b"".join(value.to_bytes(4, "big") for value in values)


def u64(*values: int) -> bytes:
    """Return big-endian 64-bit numbers."""
    return b"".join(value.to_bytes(8, "big") for value in values)


def iter_boxes(
    data: bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yield ``(kind, payload_start, payload_end)`` of the boxes between two offsets.

    Raises:
        ValueError: A size points past the end, or is smaller than a box's own header.
    """
    end = len(data) if end is None else end
    at = start
    while at < end:
        size, header = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size < header or at + size > end:
            raise ValueError(
                f"box of {size} bytes at {at}, {end - at} bytes left; the data is cut short"
            )
        yield data[at + 4 : at + 8].decode("latin-1"), at + header, at + size
        at += size


def find_box(data: bytes, *path: str) -> tuple[int, int]:
    """Return the payload's ``(start, end)`` of the first box at ``path``.

    Raises:
        ValueError: There is none.
    """
    start, end = 0, len(data)
    for wanted in path:
        for kind, inner, after in iter_boxes(data, start, end):
            if kind == wanted:
                start, end = inner, after
                break
        else:
            raise ValueError(f"no {wanted!r} box on the way {'/'.join(path)}; is this a fragment?")
    return start, end
