"""The data folder is tried before anything relies on it."""

import tempfile
from pathlib import Path


class DataFolderError(Exception):
    """The data folder cannot be used; the message says what to change."""


def prepare(data_dir: Path) -> None:
    """Make the folder where it is missing, and write a file in it.

    Raises:
        DataFolderError: It cannot be made or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as file:
            file.write(b"0")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataFolderError(
            f"--data-dir {data_dir}: it cannot be written ({reason}); name a folder that this user "
            "may write, with --data-dir or LONGTAKE_DATA_DIR"
        ) from error
