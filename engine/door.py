"""Who is let in: whether a spec is possible at all, what it takes, and whether there is room.

It knows the model's entry and what was measured and planned, and no session: what those that are
held take together is passed in.
"""

from __future__ import annotations

from collections.abc import Collection

from engine.admission import Demand, Limits, Taken, admit
from engine.asked import StreamSpec
from engine.config import EngineConfig, MemoryPlan
from engine.cost_table import CostTable
from engine.events import Refused, Wait
from engine.prompt_timeline import problem_with
from engine.start import problem_with_start
from models.entry import ModelEntry
from models.interface import VideoCodec
from models.noise import MAX_SEED


class Door:
    """Admission for one model on one device.

    Args:
        entry: The model.
        codec: Its codec; tells frames and state sizes.
        config: Limits.
        memory: What was reserved.
        costs: What chunks cost.
    """

    def __init__(
        self,
        entry: ModelEntry,
        codec: VideoCodec,
        config: EngineConfig,
        memory: MemoryPlan,
        costs: CostTable,
    ) -> None:
        self._entry = entry
        self._codec = codec
        self._costs = costs
        self._limits = Limits(
            pages=memory.pages - 1,
            decoder_bytes=memory.decoder_bytes,
            sessions=config.max_sessions,
            jobs=config.max_jobs,
            load=config.max_load,
            live_pages=memory.extent_pages,
        )
        steps = entry.sampler.num_steps
        alone_s = costs.chunk_s(1, steps)
        self._gains = [
            costs.session_s(sessions, steps) / alone_s
            for sessions in range(1, config.max_batch + 1)
        ]
        width, height = entry.sizes[0]
        self.typical = self.demand(
            StreamSpec("", (), 0, width, height, float(entry.fps)), memory.extent_pages
        )
        self.streams_fit = self.streams_free(Taken())

    def demand(self, spec: StreamSpec, pages: int) -> Demand:
        """Return what a stream of ``pages`` pages takes."""
        width, height = self._entry.sizes[0]
        scale = spec.width * spec.height / (width * height)
        steps = spec.num_steps or self._entry.sampler.num_steps
        return Demand(
            kind=spec.kind,
            pacing=spec.pacing,
            pages=pages,
            decoder_bytes=self._codec.state_bytes(spec.height, spec.width),
            chunk_s=scale * self._costs.chunk_s(1, steps),
            chunk_media_s=self._codec.frames_for(self._entry.cache.chunk_frames, False) / spec.fps,
        )

    def closed_to(self, demand: Demand, taken: Taken) -> Wait | Refused | None:
        """Say why there is no room beside what is ``taken``; None when there is."""
        return admit(demand, taken, self._limits, self._batch_gain(taken.plus(demand)))

    def load(self, taken: Taken) -> float:
        """Return the share of the device's time that what is ``taken`` needs."""
        return taken.load * self._batch_gain(taken)

    def streams_free(self, taken: Taken) -> int:
        """Return how many typical live streams fit beside what is ``taken``."""
        count = 0
        while self.closed_to(self.typical, taken) is None:
            taken = taken.plus(self.typical)
            count += 1
        return count

    def problem_with(self, spec: StreamSpec, running: Collection[str]) -> Refused | None:
        """Say why the stream can never be made as asked; None when it can."""
        entry = self._entry
        if spec.session_id in running:
            return Refused("duplicate", f"session {spec.session_id} is already running")
        if (spec.width, spec.height) not in entry.sizes:
            sizes = ", ".join(f"{width}x{height}" for width, height in entry.sizes)
            seen = f"{spec.width}x{spec.height}"
            return Refused("unsupported_size", f"size {seen}; {entry.name} has {sizes}", "size")
        for prompts in (spec.prompts, *(timed.prompts for timed in spec.timed_prompts)):
            problem = problem_with(prompts)
            if problem is not None:
                return Refused("invalid_prompt", problem, "prompt")
        steps = 1 if spec.num_steps is None else spec.num_steps
        frames = 1 if spec.num_frames is None else spec.num_frames
        for name, value, allowed, within in (
            ("seed", spec.seed, f"0 to {MAX_SEED}", 0 <= spec.seed <= MAX_SEED),
            ("fps", spec.fps, "above 0 and at most 240", 0 < spec.fps <= 240),
            ("num_frames", frames, "at least 1", frames >= 1),
            ("num_inference_steps", steps, "1 to 1000", 1 <= steps <= 1000),
        ):
            if not within:
                return Refused("invalid_value", f"{name} is {value}; allowed is {allowed}", name)
        if entry.cache.window_frames is None and spec.num_frames is None:
            return Refused(
                "not_supported",
                f"{entry.name} attends to the whole stream, so a stream must have an end; "
                "give num_frames",
                "num_frames",
            )
        return problem_with_start(spec, entry)

    def _batch_gain(self, taken: Taken) -> float:
        """Return what a chunk costs in the batches that pay, over its cost alone."""
        return self._gains[min(max(1, taken.realtime), len(self._gains)) - 1]
