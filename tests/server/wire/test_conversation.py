import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire.conversation import Conversation, Phase
from server.wire.limits import Limits
from server.wire.messages_in import SessionPing, SessionStart
from server.wire.messages_out import ErrorMessage, SessionDone, StreamConfig, VideoStart

START = json.dumps({"type": "session.start", "prompt": "a red ball"})
ACK = json.dumps({"type": "playback.ack", "frame": 3})
PING = json.dumps({"type": "session.ping"})
OPEN = VideoStart(
    request_id="r",
    session_id="s",
    resume_token="t",
    format="jpeg",
    config=StreamConfig(
        model="m", width=16, height=16, fps=16, seed=0, chunk_frames=12, codec="jpeg", mime="i"
    ),
)


def _conversation() -> Conversation:
    return Conversation(Limits(), now=0.0)


def test_an_ack_before_the_start_is_out_of_order_and_says_what_is_allowed() -> None:
    answer = _conversation().receive(ACK, 0.0)
    assert isinstance(answer, ErrorMessage)
    assert answer.code == "wrong_order"
    assert "playback.ack before session.start" in answer.message
    assert "session.start, session.resume" in answer.message


def test_a_second_start_is_out_of_order() -> None:
    talk = _conversation()
    assert isinstance(talk.receive(START, 0.0), SessionStart)
    talk.opened()
    for _ in range(2):
        answer = talk.receive(START, 0.0)
        assert isinstance(answer, ErrorMessage)
        assert answer.code == "wrong_order"
        talk.sent(OPEN)
    assert talk.phase is Phase.STREAMING
    assert not isinstance(talk.receive(ACK, 0.0), ErrorMessage)


def test_a_refused_start_may_be_tried_again() -> None:
    talk = _conversation()
    talk.opened()
    talk.refused()
    assert isinstance(talk.receive(START, 0.0), SessionStart)


def test_nothing_is_allowed_after_the_end() -> None:
    talk = _conversation()
    talk.opened()
    talk.sent(OPEN)
    talk.sent(SessionDone(reason="stopped", chunks=1, frames=9))
    answer = talk.receive(PING, 0.0)
    assert isinstance(answer, ErrorMessage)
    assert "allowed now: nothing" in answer.message


@pytest.mark.parametrize(
    "message",
    [{"type": "session.fork", "event_id": "f"}, {"type": "session.rewind", "to_chunk": 1}],
)
def test_fork_and_rewind_are_not_supported_yet(message: dict[str, object]) -> None:
    talk = _conversation()
    talk.opened()
    talk.sent(OPEN)
    answer = talk.receive(json.dumps(message), 0.0)
    assert isinstance(answer, ErrorMessage)
    assert answer.code == "not_supported"
    assert answer.event_id == message.get("event_id")


def test_a_flood_is_refused_and_recovers_with_time() -> None:
    limits = Limits(messages_per_s=10, messages_burst=5)
    talk = Conversation(limits, now=0.0)
    answers = [talk.receive(PING, 0.0) for _ in range(8)]
    codes = [a.code if isinstance(a, ErrorMessage) else a.type for a in answers]
    assert codes == ["session.ping"] * 5 + ["rate_limited"] * 3
    assert isinstance(talk.receive(PING, 0.1), SessionPing)


@given(
    st.lists(
        st.sampled_from([START, ACK, PING, "{", '{"type":"session.stop"}'])
        | st.binary(max_size=4)
        | st.sampled_from([OPEN, SessionDone(reason="x", chunks=0, frames=0)]),
        max_size=30,
    )
)
def test_any_order_of_messages_leaves_a_defined_phase(steps: list[object]) -> None:
    talk = _conversation()
    for step in steps:
        if isinstance(step, str | bytes):
            answer = talk.receive(step, 0.0)
            if isinstance(answer, SessionStart):
                talk.opened()
            assert answer is not None
        elif talk.phase in (Phase.WAITING, Phase.STREAMING):
            talk.sent(step)  # type: ignore[arg-type]
        assert talk.phase in Phase
