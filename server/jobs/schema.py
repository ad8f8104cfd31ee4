"""What ``/docs`` shows of the bodies that the job routes take; ``parse`` is what checks them."""

from typing import Any

_SECONDS = {"type": "string", "description": "Duration in seconds, such as 8 or 2.5."}
_PROMPTS = {
    "type": "array",
    "description": "Timed prompts; one at t = 0 replaces prompt.",
    "items": {
        "type": "object",
        "properties": {
            "t": {"type": "number", "description": "Seconds into the video."},
            "prompt": {"type": "string"},
            "prompts": {
                "type": "array",
                "description": "A weighted blend instead of one prompt.",
                "items": {
                    "type": "object",
                    "properties": {"text": {"type": "string"}, "weight": {"type": "number"}},
                    "required": ["text"],
                },
            },
        },
    },
}

CREATE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string"},
        "model": {"type": "string", "description": "See GET /v1/models."},
        "seconds": {**_SECONDS, "default": "4"},
        "size": {"type": "string", "description": "Width x height, such as 160x96."},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "fps": {"type": "integer"},
        "num_frames": {"type": "integer", "description": "Instead of seconds."},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        "num_inference_steps": {"type": "integer", "minimum": 1},
        "prompts": _PROMPTS,
        "input_reference": {
            "description": "Start image: a PNG, JPEG or WebP file, or a data URL.",
        },
        "extra_params": {
            "description": "An object, or its JSON text, with prompts, fps, seed and the like: "
            "for clients whose other fields are fixed.",
        },
    },
    "required": ["prompt"],
}
EXTEND_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "video": {"type": "object", "properties": {"id": {"type": "string"}}},
        "prompt": {"type": "string", "description": "Absent: the last prompt goes on."},
        "seconds": {**_SECONDS, "default": "4", "description": "How much is added."},
    },
    "required": ["video"],
}
REMIX_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}},
    "required": ["prompt"],
}
