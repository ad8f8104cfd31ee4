"""Bring a model's files into the cache folder, whole and verified.

Files are downloaded into a staging folder beside the cache, which is where an interrupted
download resumes; size and checksum are compared with what the source says; only then does a file
appear under its name. So a file in the cache is a file that can be loaded. Where bytes come
from is behind ``Remote``; the licence is said before the first byte.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.entry import ModelEntry, RemoteFile

__all__ = ["FetchError", "Progress", "Published", "Remote", "fetch_model", "licence_notice"]

STAGING = ".incomplete"
_SPARE_BYTES = 64 * 2**20
_CHUNK_BYTES = 4 * 2**20


class FetchError(RuntimeError):
    """A model could not be brought whole; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a source says of a file.

    Attributes:
        size_bytes: exact size; None when the source does not say.
        sha256: of the content, where known.
        git_blob: git's object id of the content, where known.
        revision: the commit that was asked, so that all of a file comes from one.
    """

    size_bytes: int | None
    sha256: str | None = None
    git_blob: str | None = None
    revision: str = "main"


class Remote(Protocol):
    """Where files come from; see ``models/hub.py`` for the real one."""

    def published(self, file: RemoteFile) -> Published:
        """Ask for size and checksum.

        Raises:
            OSError: the source cannot be reached or has no such file.
        """
        ...

    def download(
        self,
        file: RemoteFile,
        published: Published,
        folder: Path,
        progress: Callable[[int], None],
    ) -> Path:
        """Download into ``folder``, resuming what an earlier call left there.

        Args:
            file: what to bring.
            published: what ``published`` said.
            folder: of this file alone.
            progress: told the bytes that are there so far.

        Returns:
            The complete file, somewhere inside ``folder``.

        Raises:
            OSError: the transfer broke off, or the disk is full.
        """
        ...


class Progress(Protocol):
    """How far a fetch has come."""

    def __call__(self, path: str, done_bytes: int, total_bytes: int) -> None:
        """Tell that ``done_bytes`` of ``total_bytes`` of the file ``path`` are here."""
        ...


def licence_notice(entry: ModelEntry) -> str:
    """Say under which licence the weights come, to be shown before anything is fetched."""
    return f"{entry.name}: {entry.licence}\nLicence and terms: {entry.licence_url}"


def fetch_model(
    entry: ModelEntry,
    cache_dir: Path,
    progress: Progress | None = None,
    *,
    remote: Remote | None = None,
    say: Callable[[str], None] = lambda line: None,
    codec: str | None = None,
) -> tuple[Path, ...]:
    """Fetch the files of ``entry`` that are not in the cache.

    Args:
        entry: the model.
        cache_dir: made when absent.
        progress: told as bytes arrive.
        remote: where files come from; the hub when absent.
        say: told the licence first, then one line a file.
        codec: name of one of the entry's codecs; the default when absent.

    Returns:
        The files of the model, all present.

    Raises:
        FetchError: the source has no such file or cannot be reached, a checksum differs, or the
            disk is full. What was verified stays; what was not is not in the cache.
    """
    say(licence_notice(entry))
    missing = entry.missing(cache_dir, codec)
    if missing:
        if remote is None:
            from models.hub import HubRemote  # the hub's client takes a second to import

            remote = HubRemote()
        plans = [(file, _ask(remote, file)) for file in missing]
        _require_room(cache_dir, plans)
        for file, published in plans:
            say(f"{file.source}/{file.path}")
            _bring(file, published, cache_dir, progress, remote)
    return tuple(file.local(cache_dir) for file in entry.files(codec))


def _ask(remote: Remote, file: RemoteFile) -> Published:
    try:
        return remote.published(file)
    except OSError as error:
        raise FetchError(
            f"{file.source}/{file.path} is not available ({error}); check the network, and whether "
            "the repository asks you to log in and accept its terms"
        ) from error


def _require_room(cache_dir: Path, plans: list[tuple[RemoteFile, Published]]) -> None:
    """Refuse before the first byte when the files cannot fit."""
    needed = _SPARE_BYTES
    for file, published in plans:
        staged = sum(p.stat().st_size for p in _staging(cache_dir, file).rglob("*") if p.is_file())
        needed += max(0, (published.size_bytes or file.about_bytes) - staged)
    home = cache_dir
    while not home.exists():
        home = home.parent
    free = shutil.disk_usage(home).free
    if free < needed:
        raise FetchError(
            f"{_gb(free)} free in {cache_dir}; {_gb(needed)} are needed; free some space or name "
            "another folder"
        )


def _bring(
    file: RemoteFile,
    published: Published,
    cache_dir: Path,
    progress: Progress | None,
    remote: Remote,
) -> None:
    total = published.size_bytes or file.about_bytes
    staging = _staging(cache_dir, file)
    target = file.local(cache_dir)

    def tell(done: int) -> None:
        if progress is not None:
            progress(file.path, done, total)

    try:
        staging.mkdir(parents=True, exist_ok=True)
        arrived = remote.download(file, published, staging, tell)
        _verify(arrived, file, published)
        target.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(target)
    except _Damaged as error:
        _discard(staging, cache_dir)
        raise FetchError(f"{error}; it was thrown away; fetch again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _discard(staging, cache_dir)
            raise FetchError(
                f"the disk is full while fetching {file.path}, about {_gb(total)}; nothing of it "
                "was kept; free some space or name another folder"
            ) from error
        raise FetchError(
            f"{file.source}/{file.path} broke off ({error}); fetch again to go on where it stopped"
        ) from error
    _discard(staging, cache_dir)


class _Damaged(Exception):
    """A complete file is not what was published."""


def _verify(path: Path, file: RemoteFile, published: Published) -> None:
    size = path.stat().st_size
    if published.size_bytes is not None and size != published.size_bytes:
        raise _Damaged(f"{file.path} has {size} bytes; {published.size_bytes} were published")
    blob = published.git_blob or file.git_blob
    if published.sha256 is not None:
        got, wanted = _digest(path, hashlib.sha256()), published.sha256
    elif blob is not None:
        # git's object id: SHA-1 over a header and the content.
        head = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        got, wanted = _digest(path, head), blob
    else:
        return
    if got != wanted:
        raise _Damaged(f"{file.path} has checksum {got}; {wanted} was published")


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _staging(cache_dir: Path, file: RemoteFile) -> Path:
    name = hashlib.sha256(f"{file.source}\n{file.path}\n{file.revision}".encode()).hexdigest()
    return cache_dir / STAGING / name[:16]


def _discard(staging: Path, cache_dir: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    try:
        (cache_dir / STAGING).rmdir()
    except OSError:
        return  # other files are still on their way


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
