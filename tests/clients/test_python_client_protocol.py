"""The client's reading of the wire against the server's writing of it: the same golden texts."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtake_client import protocol
from longtake_client.errors import ProtocolError, StreamError
from longtake_client.protocol import Decoder
from server.wire import messages_in as said
from server.wire import messages_out as told
from server.wire.limits import Limits
from server.wire.parse import parse

CONFIG = {
    "model": "longtake-tiny", "width": 160, "height": 96, "fps": 16, "seed": 7,
    "chunk_frames": 12, "codec": "h264", "mime": "avc1.42c01e",
}  # fmt: skip

GOLDEN: list[tuple[told.ServerMessage, str, protocol.ServerEvent]] = [
    (
        told.SessionQueued(position=3),
        '{"type":"session.queued","position":3}',
        protocol.Queued(3),
    ),
    (
        told.VideoStart(
            request_id="req_1",
            session_id="ses_1",
            resume_token="tok",
            format="avcc",
            config=told.StreamConfig(**CONFIG, init=base64.b64encode(b"\x01\x42").decode()),  # type: ignore[arg-type]
        ),
        '{"type":"video.start","request_id":"req_1","session_id":"ses_1","resume_token":"tok",'
        '"format":"avcc","config":{"model":"longtake-tiny","width":160,"height":96,"fps":16,'
        '"seed":7,"chunk_frames":12,"codec":"h264","mime":"avc1.42c01e","init":"AUI="}}',
        protocol.Started(
            "ses_1",
            "tok",
            "avcc",
            protocol.StreamConfig(**CONFIG, init=b"\x01\x42"),  # type: ignore[arg-type]
        ),
    ),
    (
        told.InteractionQueued(event_id="e1"),
        '{"type":"session.interaction.queued","event_id":"e1"}',
        protocol.ChangeQueued("e1"),
    ),
    (
        told.InteractionApplied(event_id="e1", chunk_index=4, first_frame=45, pts=2.8125),
        '{"type":"session.interaction.applied","event_id":"e1","chunk_index":4,'
        '"first_frame":45,"pts":2.8125}',
        protocol.Applied("e1", 4, 45, 2.8125),
    ),
    (
        told.InteractionSuperseded(event_id="e1"),
        '{"type":"session.interaction.superseded","event_id":"e1"}',
        protocol.Superseded("e1"),
    ),
    (told.SessionPaused(), '{"type":"session.paused"}', protocol.Paused()),
    (told.SessionPong(), '{"type":"session.pong"}', protocol.Pong()),
    (
        told.SessionDone(reason="complete", chunks=4, frames=45),
        '{"type":"session.done","reason":"complete","chunks":4,"frames":45}',
        protocol.Done("complete", 4, 45),
    ),
]

METADATA = told.ChunkMetadata(
    epoch=0,
    chunk_index=1,
    first_frame=9,
    num_frames=2,
    pts=0.5625,
    duration=0.125,
    bytes=5,
    steps=4,
    units=(told.Unit(size=3, keyframe=True), told.Unit(size=2, keyframe=False)),
    prompt_rev=1,
    timings=told.Timings(queue_ms=1.0, denoise_ms=2.0, decode_ms=3.0, encode_ms=4.0),
)
METADATA_TEXT = (
    '{"type":"video.chunk_metadata","epoch":0,"chunk_index":1,"first_frame":9,"num_frames":2,'
    '"pts":0.5625,"duration":0.125,"bytes":5,"steps":4,"units":[{"size":3,"keyframe":true},'
    '{"size":2,"keyframe":false}],"prompt_rev":1,"timings":{"queue_ms":1.0,"denoise_ms":2.0,'
    '"decode_ms":3.0,"encode_ms":4.0}}'
)


@pytest.mark.parametrize(("message", "text", "event"), GOLDEN, ids=lambda v: type(v).__name__)
def test_the_server_writes_and_the_client_reads_the_same_text(
    message: told.ServerMessage, text: str, event: protocol.ServerEvent
) -> None:
    assert message.encode() == text
    assert Decoder().text(text) == event


def test_metadata_and_its_binary_become_one_chunk() -> None:
    assert METADATA.encode() == METADATA_TEXT
    decoder = Decoder()
    assert decoder.text(METADATA_TEXT) is None
    chunk = decoder.binary(b"abcde")
    assert (chunk.index, chunk.first_frame, chunk.last_frame) == (1, 9, 10)
    assert list(chunk.access_units()) == [b"abc", b"de"]
    assert chunk.timings == protocol.Timings(1.0, 2.0, 3.0, 4.0)


def test_an_error_becomes_an_exception_with_every_field() -> None:
    message = told.ErrorMessage(
        code="unsupported_fps",
        message="fps 99; tiny makes 16",
        event_id="e",
        param="fps",
        fatal=True,
    )
    event = Decoder().text(message.encode())
    assert isinstance(event, protocol.Refused)
    error = event.error
    assert isinstance(error, StreamError)
    assert (error.code, error.param, error.retryable, error.fatal) == (
        "unsupported_fps", "fps", False, True,
    )  # fmt: skip
    assert event.event_id == "e"


def test_each_client_message_is_one_the_server_takes() -> None:
    sent: list[tuple[str, said.ClientMessage]] = [
        (
            protocol.encode(
                "session.start", **protocol.prompt_fields("a ball"), seed=None, num_frames=9
            ),
            said.SessionStart(type="session.start", prompt="a ball", num_frames=9),
        ),
        (
            protocol.encode(
                "session.start",
                **protocol.prompt_fields(
                    [protocol.WeightedPrompt("a", 2.0), protocol.WeightedPrompt("b")]
                ),
            ),
            said.SessionStart(
                type="session.start",
                prompts=(
                    said.WeightedPrompt(text="a", weight=2.0),
                    said.WeightedPrompt(text="b"),
                ),
            ),
        ),
        (
            protocol.encode("playback.ack", frame=8, buffered_ms=None, hidden=True),
            said.PlaybackAck(type="playback.ack", frame=8, hidden=True),
        ),
        (
            protocol.encode("session.resume", session_id="ses_1", resume_token="t", after_chunk=3),
            said.SessionResume(
                type="session.resume", session_id="ses_1", resume_token="t", after_chunk=3
            ),
        ),
        (protocol.encode("session.stop"), said.SessionStop(type="session.stop")),
    ]
    for text, message in sent:
        assert parse(text, Limits()) == message


def test_unknown_types_and_fields_are_ignored() -> None:
    decoder = Decoder()
    assert decoder.text('{"type":"session.sings","song":1}') is None
    assert decoder.text('{"type":"session.pong","extra":[1]}') == protocol.Pong()


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[1]", "{}", '{"type":"session.done"}', '{"type":"video.start","config":3}',
        '{"type":"error"}', "[" * 100_000,
        json.dumps({**json.loads(GOLDEN[1][1]), "config": {**CONFIG, "init": "%%"}}),
    ],
)  # fmt: skip
def test_what_is_no_message_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        Decoder().text(text)


def test_a_binary_alone_twice_or_of_another_size_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="without metadata"):
        Decoder().binary(b"x")
    decoder = Decoder()
    decoder.text(METADATA_TEXT)
    with pytest.raises(ProtocolError, match="were told"):
        decoder.binary(b"abcdef")
    decoder.text(METADATA_TEXT)
    with pytest.raises(ProtocolError, match="was due"):
        decoder.text('{"type":"session.pong"}')


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_KINDS = st.sampled_from(
    [json.loads(text)["type"] for _, text, _ in GOLDEN] + ["error", "video.chunk_metadata"]
)


_FIELDS = st.sampled_from(
    [
        "position", "session_id", "resume_token", "format", "config", "event_id", "chunk_index",
        "first_frame", "num_frames", "pts", "duration", "bytes", "units", "timings", "code",
        "message", "steps", "epoch", "prompt_rev", "reason", "chunks", "frames",
    ]
)  # fmt: skip


@given(kind=_KINDS, changes=st.dictionaries(_FIELDS, _JSON, max_size=4))
def test_any_message_is_read_or_is_a_protocol_error(kind: str, changes: dict[str, Any]) -> None:
    whole: dict[str, Any] = {}
    for text in (METADATA_TEXT, *(text for _, text, _ in GOLDEN)):
        whole.update(json.loads(text))
    decoder = Decoder()
    try:
        decoder.text(json.dumps({**whole, **changes, "type": kind}))
        decoder.binary(b"abcde")
    except ProtocolError:
        pass


def test_an_m4s_chunk_tells_its_init_segment_apart() -> None:
    def box(kind: bytes, size: int) -> bytes:
        return size.to_bytes(4, "big") + kind + bytes(size - 8)

    init, media = box(b"ftyp", 20) + box(b"moov", 40), box(b"moof", 30) + box(b"mdat", 12)
    plain = {**json.loads(METADATA_TEXT), "units": None}

    def chunk(data: bytes) -> protocol.Chunk:
        decoder = Decoder()
        decoder.text(json.dumps({**plain, "bytes": len(data)}))
        return decoder.binary(data)

    assert chunk(init + media).split_init() == (init, media)
    assert chunk(media).split_init() == (b"", media)
    for wrong in (b"", b"abc", bytes(16), init):
        with pytest.raises(ProtocolError):
            chunk(wrong).split_init()
