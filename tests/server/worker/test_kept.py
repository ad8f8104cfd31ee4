import os
from pathlib import Path

import pytest

from server.worker.kept import FORGET_S, KeptState, KeptStates
from server.worker.output import Offset

STATE = KeptState(Offset(3, 33, 1), '[["sea", 1.0]]', b"line\none\x00\xff" * 1000)


def _states(folder: Path, now: float = 0.0) -> KeptStates:
    return KeptStates(folder, lambda: now)


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    states = _states(tmp_path / "streams")
    states.write("ses_1", STATE)
    assert states.read("ses_1") == STATE
    newer = KeptState(STATE.offset, "", b"")
    states.write("ses_1", newer)
    assert states.read("ses_1") == newer
    assert [path.name for path in (tmp_path / "streams").iterdir()] == ["ses_1.state"]


def test_a_dropped_or_unknown_state_is_none(tmp_path: Path) -> None:
    states = _states(tmp_path)
    states.write("ses_1", STATE)
    states.drop("ses_1")
    states.drop("ses_1")
    assert states.read("ses_1") is None
    assert states.read("ses_2") is None


def test_a_damaged_state_is_none(tmp_path: Path) -> None:
    states = _states(tmp_path)
    for damaged in (b"", b"{}", b"junk\nmore", b'{"offset": {"no": 1}, "prompts": ""}\n'):
        (tmp_path / "ses_1.state").write_bytes(damaged)
        assert states.read("ses_1") is None


def test_what_nobody_wrote_to_for_a_day_is_removed_and_nothing_else(tmp_path: Path) -> None:
    states = _states(tmp_path)
    for at, name in ((1000.0, "old"), (1000.0 + FORGET_S, "new")):
        states.write(name, STATE)
        (tmp_path / f"{name}.77.part").write_bytes(b"half")
        for file in (f"{name}.state", f"{name}.77.part"):
            os.utime(tmp_path / file, (at, at))
    (tmp_path / "notes.txt").write_bytes(b"somebody else's")
    os.utime(tmp_path / "notes.txt", (1000.0, 1000.0))
    again = _states(tmp_path, now=1000.0 + FORGET_S + 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new.state", "new.77.part", "notes.txt"}
    assert again.read("new") == STATE


def test_dropping_a_state_takes_along_what_a_killed_worker_had_begun(tmp_path: Path) -> None:
    states = _states(tmp_path)
    for name in ("ses_1", "ses_11"):
        states.write(name, STATE)
        (tmp_path / f"{name}.77.part").write_bytes(b"half")
    states.drop("ses_1")
    assert {path.name for path in tmp_path.iterdir()} == {"ses_11.state", "ses_11.77.part"}


def test_a_state_that_cannot_be_written_leaves_the_old_one_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = _states(tmp_path)
    states.write("ses_1", STATE)

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        states.write("ses_1", KeptState(STATE.offset, "", b"newer"))
    assert [path.name for path in tmp_path.iterdir()] == ["ses_1.state"]
    assert states.read("ses_1") == STATE
