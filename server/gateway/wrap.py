"""Published chunks to what one viewer's format wants: metadata and one binary.

The same encoded bytes become WebCodecs units (``avcc``), fMP4 fragments (``m4s``) or images
(``jpeg``); nothing is encoded again. Knows no Redis and no sockets.
"""

import base64

from server.entries import ChunkEntry
from server.live import LiveSpec, WireFormat
from server.media.fmp4 import fragment, init_segment, mime_type, timing
from server.media.types import CodecConfig
from server.wire.messages_out import ChunkMetadata, StreamConfig, Timings, Unit


class Wrapper:
    """Wraps one stream's chunks for one viewer."""

    def __init__(
        self, wire_format: WireFormat, codec: str, size: tuple[int, int], fps: int, base: int = 0
    ) -> None:
        """Begin a viewing.

        Args:
            wire_format: What the viewer asked for.
            codec: Which of an entry's codecs to take.
            size: ``(width, height)`` in pixels.
            fps: Frames a second.
            base: First frame at time 0 of the fMP4 timeline.
        """
        self.wire_format = wire_format
        self.codec = codec
        self._size = size
        self._fps = fps
        self._base = base
        self._timescale, self._duration = timing(fps)
        self._init: CodecConfig | None = None

    def mime(self, config: CodecConfig) -> str:
        """Return what a player is asked whether it plays."""
        return mime_type(config) if self.wire_format == "m4s" else config.mime

    def wrap(self, entry: ChunkEntry) -> tuple[ChunkMetadata, bytes]:
        """Return the metadata and the binary that follows it."""
        coded = entry.codecs[self.codec]
        binary, units = coded.data, None
        if self.wire_format == "m4s":
            base = (entry.first_frame - self._base) * self._duration
            binary = fragment(coded.units(), entry.chunk_index + 1, base, self._duration)
            if self._init != coded.config:
                self._init = coded.config
                binary = init_segment(coded.config, *self._size, self._timescale) + binary
        else:
            pairs = zip(coded.sizes, coded.keys, strict=True)
            units = tuple(Unit(size=size, keyframe=key) for size, key in pairs)
        metadata = ChunkMetadata(
            epoch=entry.epoch,
            chunk_index=entry.chunk_index,
            first_frame=entry.first_frame,
            num_frames=entry.num_frames,
            pts=entry.first_frame / self._fps,
            duration=entry.num_frames / self._fps,
            bytes=len(binary),
            steps=entry.steps,
            units=units,
            prompt_rev=entry.prompt_rev,
            timings=Timings(
                queue_ms=entry.queue_ms,
                denoise_ms=entry.denoise_ms,
                decode_ms=entry.decode_ms,
                encode_ms=coded.encode_ms,
            ),
        )
        return metadata, binary


def stream_config(
    spec: LiveSpec, wrapper: Wrapper, config: CodecConfig, chunk_frames: int
) -> StreamConfig:
    """Return the ``config`` of ``video.start``."""
    record = config.description if wrapper.wire_format == "avcc" else b""
    return StreamConfig(
        model=spec.model,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        seed=spec.seed,
        chunk_frames=chunk_frames,
        codec=config.codec,
        mime=wrapper.mime(config),
        init=base64.b64encode(record).decode() if record else None,
    )
