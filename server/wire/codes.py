"""Every error code the server sends on a WebSocket or over REST, and what it means.

One table, so that the documentation, the clients and the tests see the same words.
"""

ERROR_CODES: dict[str, str] = {
    "invalid_json": "The text is not a JSON object.",
    "invalid_value": "A field is missing, has a wrong type or is out of range; see param.",
    "unknown_type": "The type is not one that a client sends.",
    "binary_not_allowed": "A binary message came; clients send JSON text only.",
    "message_too_large": "The text message is longer than the limit.",
    "wrong_order": "The message is known but not allowed now.",
    "rate_limited": "Too many messages; this one was ignored.",
    "start_timeout": "No session.start or session.resume came in time.",
    "model_not_found": "No worker serves this model.",
    "unsupported_size": "The model has no such size.",
    "unsupported_fps": "The model has no such frame rate.",
    "unsupported_codec": "The format and codec do not go together, or this server has no such codec.",
    "invalid_image": "The start image is not base64 of a PNG, JPEG or WebP picture.",
    "not_supported": "Specified, but not built yet.",
    "session_not_found": "No such stream, or it has ended.",
    "invalid_token": "The resume token is wrong or was used already.",
    "taken_over": "Another connection resumed this stream.",
    "interaction_failed": "The event could not be applied; the stream goes on.",
    "capacity": "The server cannot take this stream.",
    "worker_lost": "The worker of this stream died; another one takes it over.",
    "stream_failed": "The stream ended by a fault of the server.",
    "fabric_unavailable": "The server cannot reach Redis at the moment.",
    "shutting_down": "This gateway is stopping; connect again and resume.",
    "unauthorized": "The API key is missing or wrong.",
    "forbidden_origin": "A web page of this origin may not open streams here.",
    "forbidden_host": "The server was reached under a name that is not this machine's.",
    "not_found": "No such address or object.",
    "internal_error": "A fault of the server; the log has more.",
}
