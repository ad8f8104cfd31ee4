"""Files of a job appear whole or not at all, and only under names players may ask for."""

from pathlib import Path

import pytest

from server.jobs.record import Segment
from server.jobs.segments import JobFolder, read_segment
from server.media.fmp4 import fragment
from server.media.types import AccessUnit


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, "video_0123")


def names(folder: JobFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(folder: JobFolder) -> None:
    folder.put("a", b"first")

    def broken(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder._write("a", broken)
    assert names(folder) == {"a"}
    assert (folder.path / "a").read_bytes() == b"first"


def test_an_init_segment_is_named_by_its_contents(folder: JobFolder) -> None:
    first, other = folder.put_init(b"one"), folder.put_init(b"two")
    assert first != other
    assert folder.put_init(b"one") == first
    assert names(folder) == {first, other}


def test_two_claims_never_write_the_same_file(folder: JobFolder) -> None:
    one = folder.put_segment("i", 0, 45, 0, b"one")
    two = folder.put_segment("i", 0, 45, 1, b"two")
    assert (folder.path / one.name).read_bytes() == b"one"
    assert (folder.path / two.name).read_bytes() == b"two"


def test_only_segments_are_served(folder: JobFolder) -> None:
    init = folder.put_init(b"one")
    segment = folder.put_segment(init, 0, 45, 0, b"one")
    for name in (init, segment.name):
        path = folder.served(name)
        assert path is not None
        assert path.is_file()
    for name in ("input.png", "video.mp4", "../a", "..", "", "seg-1-e0.m4s", segment.name + "x"):
        assert folder.served(name) is None


def test_tidying_keeps_the_listed_files_and_results(folder: JobFolder) -> None:
    init = folder.put_init(b"one")
    listed = folder.put_segment(init, 0, 45, 1, b"one")
    folder.put_segment(init, 0, 45, 0, b"lost")
    for name in ("video.mp4", "thumbnail.jpg", "input.png", "x.part", "resume-1-ab.state"):
        folder.put(name, b"x")
    folder.tidy([listed])
    assert names(folder) == {init, listed.name, "video.mp4", "thumbnail.jpg", "input.png"}


def test_tidying_what_is_not_there_is_harmless(folder: JobFolder) -> None:
    folder.tidy([])
    assert not folder.path.exists()


def test_adopted_files_outlive_their_source(tmp_path: Path, folder: JobFolder) -> None:
    source = JobFolder(tmp_path, "video_4567")
    source.put("a", b"one")
    folder.adopt(source, ["a"])
    folder.adopt(source, ["a"])
    source.remove()
    assert (folder.path / "a").read_bytes() == b"one"
    with pytest.raises(FileNotFoundError):
        folder.adopt(source, ["b"])


def test_adopting_copies_where_links_cannot_be_made(
    tmp_path: Path, folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    source = JobFolder(tmp_path, "video_4567")
    source.put("a", b"one")
    folder.adopt(source, ["a"])
    assert (folder.path / "a").read_bytes() == b"one"


def test_removing_what_is_not_there_is_harmless(folder: JobFolder) -> None:
    folder.remove()
    folder.put("a", b"x")
    folder.remove()
    assert not folder.path.exists()


def test_a_segment_gives_back_its_pictures_in_order() -> None:
    units = [AccessUnit(bytes([n]) * (n + 1), n % 2 == 0) for n in range(6)]
    data = fragment(units[:3], 1, 0, 1000) + fragment(units[3:], 4, 3000, 1000)
    assert list(read_segment(data)) == units
    with pytest.raises(ValueError, match="cut short"):
        list(read_segment(data[:-1]))


def test_a_segment_survives_json() -> None:
    segment = Segment("seg-0.m4s", "init.mp4", 0, 45, 100)
    assert Segment.from_json(segment.to_json()) == segment
