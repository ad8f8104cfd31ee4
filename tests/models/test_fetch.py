"""Fetching: licence first, verified files only, resumable, and nothing half-written."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from models import fetch as fetching
from models.fetch import FetchError, Published, fetch_model
from models.registry import find
from tests.models.fake_remote import FakeRemote

ENTRY = find("longlive-1.3b")


@pytest.fixture
def remote():
    return FakeRemote()


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_model_arrives_whole_after_its_licence_was_said(tmp_path, remote):
    heard, bars = [], []

    def say(line):
        heard.append((line, list(remote.calls)))

    got = fetch_model(
        ENTRY,
        tmp_path / "cache",
        lambda path, done, total: bars.append((path, done, total)),
        remote=remote,
        say=say,
    )
    assert "CC-BY-NC-SA-4.0" in heard[0][0]
    assert ENTRY.licence_url in heard[0][0]
    assert heard[0][1] == []  # nothing had been asked for yet
    assert got == tuple(file.local(tmp_path / "cache") for file in ENTRY.files())
    assert not ENTRY.missing(tmp_path / "cache")
    for file, path in zip(ENTRY.files(), got, strict=True):
        assert path.read_bytes() == remote.content(file)
    assert {path for path, _, _ in bars} == {file.path for file in ENTRY.files()}
    assert all(done == total for _, done, total in bars)
    assert len(files_in(tmp_path)) == len(ENTRY.files())  # no staging left


def test_what_is_there_is_not_fetched_again_and_shared_between_models(tmp_path, remote):
    fetch_model(ENTRY, tmp_path, remote=remote)
    remote.calls.clear()
    fetch_model(ENTRY, tmp_path, remote=remote)
    assert remote.calls == []
    fetch_model(find("wan2.1-1.3b-self-forcing"), tmp_path, remote=remote)
    assert remote.calls == ["checkpoints/self_forcing_dmd.pt"]


def test_the_other_codec_is_fetched_when_asked_for(tmp_path, remote):
    fetch_model(ENTRY, tmp_path, remote=remote, codec="wan-vae")
    assert "Wan2.1_VAE.pth" in remote.calls
    assert not any("taew" in call for call in remote.calls)


def test_a_broken_transfer_resumes_and_shows_no_half_file(tmp_path, remote):
    remote.break_after = 100
    with pytest.raises(FetchError, match=r"longlive_base\.pt broke off \(reset by peer\)"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert len(ENTRY.missing(tmp_path)) == len(ENTRY.files())
    assert all(name.startswith(".incomplete") for name in files_in(tmp_path))
    remote.break_after = None
    fetch_model(ENTRY, tmp_path, remote=remote)
    assert remote.resumed[1] == 100
    assert not ENTRY.missing(tmp_path)


def test_an_interrupt_resumes_too(tmp_path, remote):
    remote.break_after, remote.breaks = 64, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert len(ENTRY.missing(tmp_path)) == len(ENTRY.files())
    remote.break_after = None
    fetch_model(ENTRY, tmp_path, remote=remote)
    assert remote.resumed[1] == 64


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_of_the_file_behind(tmp_path, remote, code):
    remote.break_after, remote.breaks = 100, OSError(code, "No space left on device")
    with pytest.raises(FetchError, match=r"the disk is full while fetching models/longlive_base"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert files_in(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_really_full_leaves_nothing_behind_either(tmp_path, remote):
    remote.part_is = Path("/dev/full")
    with pytest.raises(FetchError, match=r"the disk is full while fetching models/longlive_base"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert files_in(tmp_path) == []


def test_a_disk_too_small_is_refused_before_the_first_byte(tmp_path, remote, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(FetchError, match=r"0\.0 GB free in .*0\.1 GB are needed"):
        fetch_model(ENTRY, tmp_path / "cache", remote=remote)
    assert remote.calls == []
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("part", ["models/lora.pt", "taew2_1.safetensors"])
def test_a_file_with_another_checksum_is_thrown_away(tmp_path, remote, part):
    remote.corrupt.add(part)
    with pytest.raises(FetchError, match=r"has checksum .* was published; it was thrown away"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    missing = {file.path for file in ENTRY.missing(tmp_path)}
    assert part in missing
    assert not any(name.startswith(".incomplete") for name in files_in(tmp_path))
    remote.corrupt.clear()
    fetch_model(ENTRY, tmp_path, remote=remote)
    assert not ENTRY.missing(tmp_path)


def test_a_file_of_another_size_is_thrown_away(tmp_path, remote, monkeypatch):
    monkeypatch.setattr(remote, "published", lambda file: Published(3))
    with pytest.raises(FetchError, match="bytes; 3 were published; it was thrown away"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert files_in(tmp_path) == []


def test_a_file_that_is_not_available_stops_before_anything_is_fetched(tmp_path, remote):
    remote.unavailable.add("models/lora.pt")
    with pytest.raises(FetchError, match=r"models/lora\.pt is not available \(404\)"):
        fetch_model(ENTRY, tmp_path, remote=remote)
    assert remote.calls == []


def test_the_bundled_model_needs_no_fetching(tmp_path, remote):
    assert fetch_model(find("longtake-tiny"), tmp_path, remote=remote) == ()
    assert fetching.licence_notice(find("longtake-tiny")).startswith("longtake-tiny: Apache-2.0")
    assert remote.calls == []
