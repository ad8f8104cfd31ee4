"""``python -m server`` before anything is started: words that cannot be meant."""

import socket
from importlib.metadata import version
from pathlib import Path

import pytest

from server.__main__ import main

REDIS = ("--role", "gateway", "--redis-url", "redis://127.0.0.1:1")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must end with status 2, and return its one line."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_a_mistyped_command_is_answered_with_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "modles is no command; commands are models, fetch" in refused(capsys, "modles")


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"longtake {version('longtake')}\n"


def test_an_unknown_level_of_the_log_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAKE_LOG", "banana")
    assert "LONGTAKE_LOG banana; allowed are debug, info" in refused(capsys, "models")


@pytest.mark.parametrize("role", ["all", "gateway", "worker"])
def test_a_data_folder_that_cannot_be_made_names_the_flag_and_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, role: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data"
    words = ("--role", role, "--redis-url", "redis://127.0.0.1:1", "--data-dir", str(folder))
    said = refused(capsys, *words)
    assert f"--data-dir {folder}: it cannot be written (not a directory)" in said
    assert "LONGTAKE_DATA_DIR" in said


@pytest.mark.parametrize("value", ["abc", "987654"])
def test_a_listener_that_is_none_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("LONGTAKE_LISTENER_FD", value)
    said = refused(capsys, *REDIS, "--data-dir", str(tmp_path))
    assert f"LONGTAKE_LISTENER_FD {value} is no open socket" in said


def test_an_address_that_cannot_be_bound_says_which_flag_to_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = (*REDIS, "--data-dir", str(tmp_path))
    wrong = ("--host", "999.1.1.1", "--port", "0", "--api-key", "a long key")
    assert "give another --host" in refused(capsys, *words, *wrong)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = ("--port", str(listener.getsockname()[1]))
        assert "give another --port" in refused(capsys, *words, *taken)
