import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire.conversation import Conversation, Phase
from server.wire.limits import Limits
from server.wire.messages_in import SessionPing, SessionStart
from server.wire.messages_out import (
    ChunkMetadata,
    ErrorMessage,
    SessionDone,
    StreamConfig,
    Timings,
    VideoStart,
)

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


def _ack(frame: int) -> str:
    return json.dumps({"type": "playback.ack", "frame": frame})


def _resume(after_chunk: int) -> str:
    return json.dumps(
        {
            "type": "session.resume",
            "session_id": "s",
            "resume_token": "t",
            "after_chunk": after_chunk,
        }
    )


def _chunk(index: int, first_frame: int, num_frames: int) -> ChunkMetadata:
    return ChunkMetadata(
        epoch=0,
        chunk_index=index,
        first_frame=first_frame,
        num_frames=num_frames,
        pts=first_frame / 16,
        duration=num_frames / 16,
        bytes=1,
        steps=4,
        prompt_rev=0,
        timings=Timings(queue_ms=0, denoise_ms=0, decode_ms=0, encode_ms=0),
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
    talk.sent(_chunk(0, 0, 9))
    assert not isinstance(talk.receive(ACK, 0.0), ErrorMessage)


def test_an_ack_of_a_frame_that_was_not_sent_is_refused_and_others_are_not() -> None:
    talk = _conversation()
    talk.receive(START, 0.0)
    talk.opened()
    talk.sent(OPEN)
    assert not isinstance(talk.receive(_ack(-1), 0.0), ErrorMessage)
    assert isinstance(talk.receive(_ack(0), 0.0), ErrorMessage)
    talk.sent(_chunk(0, 0, 9))
    for frame in (9, 10**9):
        answer = talk.receive(_ack(frame), 0.0)
        assert isinstance(answer, ErrorMessage)
        assert (answer.code, answer.param, answer.fatal) == ("invalid_value", "frame", False)
        assert f"frame {frame} was not sent; the last one sent is 8" in answer.message
    assert not isinstance(talk.receive(_ack(8), 0.0), ErrorMessage)


def test_after_a_resume_frames_of_the_connection_before_may_be_acknowledged() -> None:
    talk = _conversation()
    talk.receive(_resume(7), 0.0)
    talk.opened()
    talk.sent(OPEN)
    assert not isinstance(talk.receive(_ack(92), 0.0), ErrorMessage)
    talk.sent(_chunk(6, 69, 12))
    assert not isinstance(talk.receive(_ack(92), 0.0), ErrorMessage)
    for index in (7, 8):
        talk.sent(_chunk(index, 9 + 12 * (index - 1), 12))
    assert not isinstance(talk.receive(_ack(104), 0.0), ErrorMessage)
    assert isinstance(talk.receive(_ack(105), 0.0), ErrorMessage)


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
