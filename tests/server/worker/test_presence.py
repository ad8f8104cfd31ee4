from server.worker.presence import SILENCE_S, Presence


def test_a_beating_viewer_is_here() -> None:
    presence = Presence(30.0, 0.0)
    for tick in range(100):
        presence.heard("a", tick * 0.5)
        assert presence.state(tick * 0.5) == "here"


def test_silence_is_lost_within_two_seconds_and_gone_after_the_grace() -> None:
    presence = Presence(30.0, 0.0)
    presence.heard("a", 10.0)
    assert presence.state(10.0 + SILENCE_S) == "here"
    assert presence.state(12.0) == "lost"
    assert presence.state(39.9) == "lost"
    assert presence.state(40.1) == "gone"


def test_a_goodbye_is_lost_at_once() -> None:
    presence = Presence(30.0, 0.0)
    presence.heard("a", 1.0)
    presence.detached("a", 1.1)
    assert presence.state(1.1) == "lost"


def test_a_beat_brings_a_lost_viewer_back() -> None:
    presence = Presence(30.0, 0.0)
    presence.heard("a", 0.0)
    assert presence.state(10.0) == "lost"
    presence.heard("a", 10.1)
    assert presence.state(10.1) == "here"


def test_a_resume_replaces_the_old_connection() -> None:
    presence = Presence(30.0, 0.0)
    presence.attached("a", 0.0)
    presence.detached("a", 1.0)
    presence.attached("b", 2.0)
    assert presence.state(2.0) == "here"
    presence.detached("a", 2.1)
    assert presence.state(2.1) == "here"
    presence.heard("a", 5.0)
    assert presence.state(5.0) == "lost"
