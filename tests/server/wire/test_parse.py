import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.wire.codes import ERROR_CODES
from server.wire.limits import Limits
from server.wire.messages_in import CLIENT_TYPES, PlaybackAck, SessionInteraction, SessionStart
from server.wire.messages_out import ErrorMessage
from server.wire.parse import parse

LIMITS = Limits()


def _start(**fields: object) -> str:
    return json.dumps({"type": "session.start", "prompt": "a red ball", **fields})


def _refusal(raw: str | bytes) -> ErrorMessage:
    answer = parse(raw, LIMITS)
    assert isinstance(answer, ErrorMessage), answer
    assert answer.code in ERROR_CODES
    assert not answer.fatal
    return answer


def test_a_minimal_start_gets_the_documented_defaults() -> None:
    message = parse(_start(), LIMITS)
    assert isinstance(message, SessionStart)
    assert (message.format, message.pacing, message.seed, message.codec) == (
        "m4s",
        "realtime",
        None,
        None,
    )


def test_fields_of_other_servers_are_ignored() -> None:
    assert isinstance(
        parse(_start(guidance_scale=3.0, extra_params={"a": 1}), LIMITS), SessionStart
    )


def test_weighted_prompts_are_read() -> None:
    raw = json.dumps(
        {"type": "session.start", "prompts": [{"text": "sea", "weight": 2}, {"text": "sky"}]}
    )
    message = parse(raw, LIMITS)
    assert isinstance(message, SessionStart)
    assert message.prompts is not None
    assert [(p.text, p.weight) for p in message.prompts] == [("sea", 2.0), ("sky", 1.0)]


@pytest.mark.parametrize(
    ("fields", "param", "seen", "allowed"),
    [
        ({"prompt": "x" * 1_000_000}, "prompt", "1000000 characters", "4096"),
        ({"prompt": ""}, "prompt", '""', "at least 1"),
        ({"prompt": 7}, "prompt", "7", "a text is needed"),
        ({"width": -160, "height": 96}, "width", "-160", "the least allowed is 16"),
        ({"width": 160}, None, "one of width and height", "both or neither"),
        ({"fps": 1e9}, "fps", "1000000000.0", "a whole number is needed"),
        ({"fps": 100000}, "fps", "100000", "the most allowed is 240"),
        ({"fps": 0}, "fps", "0", "the least allowed is 1"),
        ({"seed": 2**53}, "seed", str(2**53), str(2**53 - 1)),
        ({"seed": -1}, "seed", "-1", "0"),
        ({"num_frames": 0}, "num_frames", "0", "1"),
        ({"num_inference_steps": 1000}, "num_inference_steps", "1000", "100"),
        ({"format": "avi"}, "format", '"avi"', "'m4s', 'avcc' or 'jpeg'"),
        ({"pacing": None}, "pacing", "null", "'realtime' or 'asap'"),
        ({"prompts": []}, "prompts", "[]", "at least 1"),
        ({"prompt": None, "prompts": "x"}, "prompts", '"x"', "a list is needed"),
        ({"prompt": None, "prompts": [3]}, "prompts.0", "3", "an object is needed"),
        ({"prompts": [{"text": "a"}]}, None, "both of prompt and prompts", "exactly one"),
    ],
)
def test_a_bad_value_says_what_was_seen_and_what_is_allowed(
    fields: dict[str, object], param: str | None, seen: str, allowed: str
) -> None:
    answer = _refusal(_start(**fields))
    assert answer.code == "invalid_value"
    assert answer.param == param
    assert seen in answer.message
    assert allowed in answer.message
    assert not re.search("input should|valid|instance|tuple|string", answer.message)
    assert len(answer.message) < 400


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        ("{", "invalid_json", "JSON object"),
        ("", "invalid_json", "JSON object"),
        ("[1, 2]", "invalid_json", "[1, 2]"),
        ("NaN", "invalid_json", "JSON object"),
        ("[" * 100_000, "invalid_json", "JSON object"),
        ('{"type":"session.start","prompt":"\\ud800"}', "invalid_json", "JSON object"),
        ('{"type":"video.start"}', "unknown_type", "session.start"),
        ('{"prompt":"no type"}', "unknown_type", "no type"),
        ('{"type":["session.start"]}', "unknown_type", "allowed types are"),
        (b"\x00\x01", "binary_not_allowed", "2 bytes"),
        ("x" * (LIMITS.message_bytes + 1), "message_too_large", str(LIMITS.message_bytes)),
    ],
)
def test_garbage_is_answered_with_its_own_code(raw: str | bytes, code: str, words: str) -> None:
    answer = _refusal(raw)
    assert answer.code == code
    assert words in answer.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"frame": 1, "buffered_ms": "x"}, 'buffered_ms is "x"; a number is needed'),
        ({"frame": 1, "hidden": 1}, "hidden is 1; true or false is needed"),
        ({"frame": True}, "frame is true; a whole number is needed"),
        ({"frame": 2**70}, "the most allowed is 9007199254740991"),
    ],
)
def test_what_is_needed_is_said_in_plain_words(fields: dict[str, object], words: str) -> None:
    assert words in _refusal(json.dumps({"type": "playback.ack", **fields})).message


def test_an_error_names_the_event_it_answers() -> None:
    raw = json.dumps(
        {"type": "session.interaction", "interaction": {"event_id": "e1", "event": {}}}
    )
    answer = _refusal(raw)
    assert answer.event_id == "e1"
    assert "neither of prompt and prompts" in answer.message


def test_an_interaction_needs_no_event_id() -> None:
    raw = json.dumps({"type": "session.interaction", "interaction": {"event": {"prompt": "rain"}}})
    message = parse(raw, LIMITS)
    assert isinstance(message, SessionInteraction)
    assert message.interaction.event_id is None


def test_an_ack_before_the_first_frame_is_minus_one() -> None:
    message = parse('{"type":"playback.ack","frame":-1,"hidden":true}', LIMITS)
    assert isinstance(message, PlaybackAck)
    assert (message.frame, message.hidden) == (-1, True)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_names = st.sampled_from(
    [
        "prompt",
        "prompts",
        "width",
        "height",
        "fps",
        "seed",
        "frame",
        "interaction",
        "event",
        "event_id",
        "format",
        "codec",
        "image",
        "session_id",
        "resume_token",
        "to_chunk",
        "hidden",
    ]
)
_objects = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(list(CLIENT_TYPES)) | _values,
    st.dictionaries(_names | st.text(max_size=8), _values, max_size=6),
)


@given(st.binary(max_size=200) | st.text(max_size=200) | _objects.map(json.dumps))
@example('{"type": "session.start", "prompt": 1e999}')
@example('{"type": "session.start", "seed": ' + "9" * 5000 + "}")
def test_any_input_gives_a_message_or_a_documented_error(raw: str | bytes) -> None:
    answer = parse(raw, LIMITS)
    if isinstance(answer, ErrorMessage):
        assert answer.code in ERROR_CODES
        assert len(answer.encode()) < 4000
    else:
        assert answer.type in CLIENT_TYPES
