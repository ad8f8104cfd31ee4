"""Hugging Face and plain HTTPS as sources of model files.

Repositories go through ``huggingface_hub``, which resumes and authenticates; the few files that
are published elsewhere through ranged HTTPS requests. Nothing here decides what a model needs
or whether a file is whole: see ``models/fetch.py``.
"""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from tqdm import tqdm

from models.entry import RemoteFile
from models.fetch import Published

__all__ = ["HubRemote"]

_CHUNK_BYTES = 2**20
_TIMEOUT_S = 30.0


class HubRemote:
    """Asks the hub, or the server that a file's source names."""

    def __init__(self, api: HfApi | None = None) -> None:
        self._api = api or HfApi()

    def published(self, file: RemoteFile) -> Published:
        """Ask for size and checksum.

        Raises:
            OSError: the source cannot be reached or has no such file.
        """
        if file.source.startswith("https://"):
            with _open(_address(file), {}, "HEAD") as answer:
                size = answer.headers.get("Content-Length")
            return Published(None if size is None else int(size), git_blob=file.git_blob)
        try:
            model = self._api.model_info(file.source, revision=file.revision)
            revision = model.sha or file.revision
            found = self._api.get_paths_info(file.source, [file.path], revision=revision)
        except OSError:
            raise
        except Exception as error:
            raise ConnectionError(str(error)) from error
        if not found or not hasattr(found[0], "size"):
            raise FileNotFoundError(f"no such file at {revision}")
        info: Any = found[0]
        if info.lfs is not None:
            return Published(info.lfs.size, sha256=info.lfs.sha256, revision=revision)
        return Published(info.size, git_blob=info.blob_id, revision=revision)

    def download(
        self,
        file: RemoteFile,
        published: Published,
        folder: Path,
        progress: Callable[[int], None],
    ) -> Path:
        """Download into ``folder``, resuming what an earlier call left there.

        Raises:
            OSError: the transfer broke off, or the disk is full.
        """
        if file.source.startswith("https://"):
            return _download(_address(file), folder / Path(file.path).name, progress)
        try:
            path = hf_hub_download(
                file.source,
                file.path,
                revision=published.revision,
                local_dir=folder,
                tqdm_class=_bar_that_tells(progress),
            )
        except OSError:
            raise
        except Exception as error:
            # The client's transport has exceptions of its own, which differ by version.
            raise ConnectionError(str(error)) from error
        return Path(path)


def _address(file: RemoteFile) -> str:
    return f"{file.source}/{file.path}"


def _open(address: str, headers: dict[str, str], method: str = "GET") -> Any:
    request = urllib.request.Request(address, headers=headers, method=method)
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S)


def _download(address: str, target: Path, progress: Callable[[int], None]) -> Path:
    """Fetch ``address``, continuing ``target.part`` where the server allows it."""
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        answer = _open(address, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range is past the end: all of it is here already
            raise
        part.replace(target)
        return target
    with answer, part.open("ab" if answer.status == 206 else "wb") as out:
        done = out.tell()
        expected = answer.headers.get("Content-Length")
        whole = None if expected is None else done + int(expected)
        try:
            while chunk := answer.read(_CHUNK_BYTES):
                done += out.write(chunk)
                progress(done)
        except http.client.HTTPException as error:
            raise ConnectionError(f"the server stopped after {done} bytes") from error
        out.flush()
        os.fsync(out.fileno())
    if whole is not None and done < whole:
        raise ConnectionError(f"{done} of {whole} bytes arrived")
    part.replace(target)
    return target


def _bar_that_tells(progress: Callable[[int], None]) -> type[Any]:
    """Make a progress bar class that draws nothing and passes the count on."""
    furthest = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self._done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            # The hub may keep two bars for one file, bytes received and bytes written.
            nonlocal furthest
            self._done += int(n or 0)
            if self._done > furthest:
                furthest = self._done
                progress(furthest)
            return None

    return Bar
