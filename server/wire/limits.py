"""Bounds on everything a client can send.

The values are data, so that an operator or a test can use others and every error message can say
what is allowed. It does not know what a model supports; see ``server.live`` for that.
"""

from dataclasses import dataclass

MAX_SEED = 2**53 - 1
"""Largest seed: the largest integer that JavaScript holds exactly."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may send.

    Attributes:
        message_bytes: Longest text message, start image included.
        prompt_chars: Longest prompt text.
        prompt_parts: Most weighted prompts blended into one.
        event_id_chars: Longest id a client may give an event.
        transition_chunks: Longest prompt transition.
        messages_per_s: Sustained message rate; more is answered with ``rate_limited``.
        messages_burst: Messages that may come at once.
        queued_streams: Streams that may wait for one model; more are refused.
        start_timeout_s: How long a connection may stay silent before ``session.start``.
    """

    message_bytes: int = 8 * 1024 * 1024
    prompt_chars: int = 4096
    prompt_parts: int = 8
    event_id_chars: int = 128
    transition_chunks: int = 64
    messages_per_s: float = 60.0
    messages_burst: int = 240
    queued_streams: int = 256
    start_timeout_s: float = 10.0
