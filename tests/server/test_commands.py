"""``models``, ``fetch`` and ``convert`` as a user runs them, and a worker whose model is bad."""

import errno
import json

import pytest
from safetensors.torch import load_file

import models.hub
import models.needs
import tests.models.damage as damaged
from models import loading
from models.registry import find, names
from server.__main__ import main
from tests.models import formats
from tests.models.fake_remote import FakeRemote
from tests.server.small_model import write_small_model

LONGLIVE = find("longlive-1.3b")


def run(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def remote(monkeypatch):
    """A hub that invents files."""
    fake = FakeRemote()
    monkeypatch.setattr(models.hub, "HubRemote", lambda: fake)
    return fake


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_model_is_listed_with_what_it_needs_and_its_licence(tmp_path, capsys):
    status, out, _ = run(capsys, "models", "--data-dir", tmp_path)
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines() if line[0] != " "] == list(names())
    krea = out[out.index("krea-realtime-14b:") :]
    assert "run: python -m server fetch krea-realtime-14b" in krea
    assert "weights 28.6 GB and text encoder 11.4 GB" in krea
    assert "a session 8.1 GB of keys and values and 67 MB of decoder state" in krea
    assert "licence CC-BY-NC-SA-4.0" in krea


def test_one_model_can_be_shown_alone_and_as_json(tmp_path, capsys):
    for file in LONGLIVE.files():
        path = file.local(tmp_path / "models")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    status, out, _ = run(capsys, "models", LONGLIVE.name, "--json", "--data-dir", tmp_path)
    assert status == 0
    (found,) = json.loads(out)
    assert (found["name"], found["present"]) == (LONGLIVE.name, True)
    assert found["kv_bytes_per_session"] > 10**9
    assert found["decoder_state_bytes_per_session"] > 10**6
    status, out, _ = run(capsys, "models", LONGLIVE.name, "--data-dir", tmp_path)
    assert "all here" in out


@pytest.mark.parametrize("command", ["models", "fetch"])
def test_an_unknown_name_is_answered_with_the_list(tmp_path, capsys, remote, command):
    status, _, err = run(capsys, command, "wan", "--data-dir", tmp_path)
    assert status == 2
    assert err.startswith("error: model 'wan'; known are longtake-tiny, wan2.1-1.3b-self-forcing")
    assert err.count("\n") == 1
    assert remote.calls == []


def test_fetch_says_the_licence_first_and_shows_how_far_it_is(tmp_path, capsys, remote):
    status, out, err = run(capsys, "fetch", LONGLIVE.name, "--data-dir", tmp_path)
    assert status == 0
    first, second, *files, last = out.splitlines()
    assert first.startswith("longlive-1.3b: CC-BY-NC-SA-4.0")
    assert second == f"Licence and terms: {LONGLIVE.licence_url}"
    assert len(files) == 5
    assert last == f"longlive-1.3b: 5 files are in {tmp_path / 'models'}"
    assert "models/longlive_base.pt: 100%" in err
    assert not LONGLIVE.missing(tmp_path / "models")


def test_commands_use_the_data_folder_that_the_server_is_told(
    tmp_path, capsys, remote, monkeypatch
):
    monkeypatch.setenv("LONGTAKE_DATA_DIR", str(tmp_path / "shared"))
    cache = tmp_path / "shared" / "models"
    status, out, _ = run(capsys, "fetch", LONGLIVE.name)
    assert (status, out.splitlines()[-1]) == (0, f"longlive-1.3b: 5 files are in {cache}")
    assert not LONGLIVE.missing(cache)
    assert "all here" in run(capsys, "models", LONGLIVE.name)[1]
    assert f"free for {tmp_path / 'shared'}" in run(capsys, "doctor", "--device", "cpu")[1]
    # A flag wins.
    assert "all here" not in run(capsys, "models", LONGLIVE.name, "--data-dir", tmp_path)[1]


@pytest.mark.parametrize(
    ("trouble", "told", "left"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full while fetching", 0),
        (ConnectionError("reset by peer"), "fetch again to go on where it stopped", 1),
    ],
)
def test_a_fetch_that_fails_is_one_line(tmp_path, capsys, remote, trouble, told, left):
    remote.break_after, remote.breaks = 100, trouble
    status, _, err = run(capsys, "fetch", LONGLIVE.name, "--data-dir", tmp_path)
    assert status == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert told in err.splitlines()[-1]
    assert "Traceback" not in err
    assert len(files_in(tmp_path)) == left
    assert len(LONGLIVE.missing(tmp_path / "models")) == len(LONGLIVE.files())


def test_a_fetch_that_is_interrupted_ends_quietly(tmp_path, capsys, remote):
    remote.break_after, remote.breaks = 100, KeyboardInterrupt()
    status, _, err = run(capsys, "fetch", LONGLIVE.name, "--data-dir", tmp_path)
    assert status == 130
    assert "Traceback" not in err


def test_the_bundled_model_needs_no_fetching(tmp_path, capsys, remote):
    status, out, _ = run(capsys, "fetch", "longtake-tiny", "--data-dir", tmp_path)
    assert status == 0
    assert "there is nothing to fetch" in out


def test_one_stream_is_no_plural(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("models.needs.describe", _with_room_for(1, models.needs.describe))
    _, out, _ = run(capsys, "models", LONGLIVE.name, "--data-dir", tmp_path)
    assert " has room for 1 stream; " in out


def _with_room_for(streams, describe):
    return lambda *args, **named: {**describe(*args, **named), "streams_that_fit": streams}


def test_convert_writes_a_folder_that_loads_and_shows_how_far_it_is(tmp_path, capsys):
    source = write_small_model(tmp_path / "mine")
    words = ["convert", source, tmp_path / "out", "--dtype", "float32", "--data-dir", tmp_path]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert f"serve it with --model {tmp_path / 'out'}" in out
    assert "transformer.safetensors: 100%" in err
    assert set(load_file(tmp_path / "out" / "transformer.safetensors")) == set(
        formats.transformer_weights()
    )
    assert loading.load_model(str(tmp_path / "out")).entry.transformer == formats.SMALL
    status, _, err = run(capsys, *words)
    assert status == 2
    assert "is not empty" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("damage", damaged.ALL, ids=lambda damage: damage.__name__)
def test_a_worker_whose_model_cannot_be_loaded_says_why_and_ends(
    tmp_path, capsys, monkeypatch, damage
):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    model, told = damage(write_small_model(tmp_path / "longtake-tiny"))
    status, _, err = run(
        capsys,
        *("--role", "worker", "--redis-url", "redis://127.0.0.1:1", "--model", model),
        *("--device", "cpu", "--dtype", "float32", "--data-dir", tmp_path / "data"),
    )
    assert status == 2
    assert err.startswith(f"error: {model} cannot be served: ")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / damaged.RAN).exists()


def test_an_unknown_codec_is_answered_with_those_there_are(tmp_path, capsys):
    status, _, err = run(
        capsys,
        *("--role", "worker", "--redis-url", "redis://127.0.0.1:1", "--codec", "jpeg"),
        *("--model", write_small_model(tmp_path / "mine"), "--device", "cpu"),
        *("--dtype", "float32", "--data-dir", tmp_path / "data"),
    )
    assert status == 2
    assert "codec 'jpeg' for longtake-tiny; it has taehv" in err
