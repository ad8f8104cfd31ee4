import os
from pathlib import Path

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


def test_states_nobody_wrote_for_a_day_are_removed(tmp_path: Path) -> None:
    states = _states(tmp_path)
    states.write("old", STATE)
    states.write("new", STATE)
    os.utime(tmp_path / "old.state", (1000.0, 1000.0))
    os.utime(tmp_path / "new.state", (1000.0 + FORGET_S, 1000.0 + FORGET_S))
    again = _states(tmp_path, now=1000.0 + FORGET_S + 1)
    assert again.read("old") is None
    assert again.read("new") == STATE
