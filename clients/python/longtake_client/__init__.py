"""Typed client of Longtake: live video streams and video jobs.

::

    async with Client("http://127.0.0.1:8000") as client:
        async with client.stream("a red ball on grass") as stream:
            async for chunk in stream:
                file.write(chunk.data)

``protocol`` is the wire without I/O, ``stream`` one live stream that survives lost
connections, ``jobs`` the REST side, ``cli`` the command line.
"""

from longtake_client.client import Client
from longtake_client.errors import (
    ApiError,
    ChangeSuperseded,
    ConnectionLost,
    LongtakeError,
    ProtocolError,
    StreamError,
)
from longtake_client.jobs import Jobs, Video, VideoEvent
from longtake_client.protocol import (
    Applied,
    Chunk,
    Done,
    Started,
    StreamConfig,
    Timings,
    Unit,
    WeightedPrompt,
)
from longtake_client.stream import PromptChange, Stream, StreamOptions

__all__ = [
    "ApiError",
    "Applied",
    "ChangeSuperseded",
    "Chunk",
    "Client",
    "ConnectionLost",
    "Done",
    "Jobs",
    "LongtakeError",
    "PromptChange",
    "ProtocolError",
    "Started",
    "Stream",
    "StreamConfig",
    "StreamError",
    "StreamOptions",
    "Timings",
    "Unit",
    "Video",
    "VideoEvent",
    "WeightedPrompt",
]
