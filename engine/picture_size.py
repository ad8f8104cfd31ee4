"""The picture's size as a command line says it."""

__all__ = ["parse_size"]


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT`` in pixels.

    Raises:
        ValueError: it is something else.
    """
    words = text.split("x")
    if len(words) != 2 or not all(word.isdigit() and int(word) >= 1 for word in words):
        raise ValueError(f"--size {text}; say WIDTHxHEIGHT in pixels, such as 832x480")
    width, height = (int(word) for word in words)
    return width, height
