"""The engine: sessions in, chunks of frames out, one tick at a time.

``step(now)`` chooses a batch of sessions, makes one chunk for each and returns what happened. It
is single-threaded and, given the same calls at the same times, does the same. It joins the parts
and decides nothing they could decide: whose turn it is (``scheduler``), who is let in
(``admission``), what a stream shows (``session``), how latents are made (``generator``) and
become frames (``pixels``). It knows neither threads nor wires.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from engine.admission import Taken
from engine.asked import Command, Credit, Pause, Play, Stop, StreamSpec, UpdatePrompt
from engine.chunk_maker import ChunkMaker
from engine.config import EngineConfig, MemoryPlan, free_memory, make_current, plan_memory
from engine.cost_table import CostTable
from engine.door import Door
from engine.events import (
    Admission,
    Admitted,
    Capacity,
    EndReason,
    EngineEvent,
    Refused,
    SessionEnded,
    Wait,
)
from engine.flight import Flight
from engine.frame_copy import PendingFrames
from engine.generator import Generator
from engine.held import Held
from engine.measure import measure_costs
from engine.noise_ahead import NoiseAhead
from engine.pixels import Pixels
from engine.prompts import PromptStore
from engine.scheduler import Candidate, schedule
from engine.session import Session
from engine.snapshot import Snapshot, SnapshotError
from engine.start import chunk_shape
from models.interface import LoadedModel
from models.noise import noise
from models.paged_kv import KVPool

log = logging.getLogger(__name__)

MakePool = Callable[[int, int, int, int, int, torch.dtype, torch.device], KVPool]

POLL_S = 0.02
"""How often to look whether texts have been embedded on the other thread."""


class Engine:
    """All sessions of one device.

    Args:
        model: What generates.
        config: Settings.
        clock: Monotonic seconds; measures how long things take, ``now`` decides what is due.
        costs: Instead of measuring at start-up.
        memory: Instead of looking at the device's free memory.
        make_generator: Builds the generator over the pool, where a device has a faster one.
        make_pool: Takes the arguments of ``KVPool``; makes the memory of keys and values.
    """

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        clock: Callable[[], float],
        costs: CostTable | None = None,
        memory: MemoryPlan | None = None,
        make_generator: Callable[[LoadedModel, KVPool], Generator] | None = None,
        make_pool: MakePool = KVPool,
    ) -> None:
        make_current(model.device)
        self.model = model
        self._config = config
        self._clock = clock
        entry, sizes = model.entry, model.entry.transformer
        self.memory = memory or plan_memory(model, config, free_memory(model.device))
        pool = make_pool(
            sizes.num_layers,
            self.memory.pages,
            self.memory.page_tokens,
            sizes.num_heads,
            sizes.head_dim,
            model.dtype,
            model.device,
        )
        self.generator = (make_generator or Generator.of)(model, pool)
        anchors = entry.cache.recache == "every_chunk" and not entry.cache.keep_sink_on_recache
        context = (entry.cache.window_frames or 0) - entry.cache.chunk_frames
        self._pixels = Pixels(model.codec, model.device, 1 + 4 * (context - 1) if anchors else 0)
        threads = config.noise_threads_beside(model.device)
        self._ahead = NoiseAhead(threads, noise) if threads else None
        self._prompts = PromptStore(
            model.text,
            model.transformer.prompt_kv,
            config.prompt_bytes,
            ahead_on=model.device if config.embeds_ahead(entry.text.dim) else None,
        )
        self._maker = ChunkMaker(
            model, self.generator, self._pixels, self._prompts, self._ahead or noise
        )
        self._held: dict[str, Held] = {}
        self._capacity: Capacity | None = None  # None: a stream came or went
        self._flight: Flight | None = None
        self._free_at = 0.0  # when it is expected to have landed
        self.costs = costs or measure_costs(
            model, self.generator, self._prompts, self._pixels, config.max_batch, clock
        )
        self._door = Door(model.entry, model.codec, config, self.memory, self.costs)

    def admit(self, spec: StreamSpec, now: float, snapshot: Snapshot | None = None) -> Admission:
        """Take a stream in, or say why not.

        Args:
            spec: What to generate.
            now: Current time.
            snapshot: Go on from there instead of from the beginning, with the same spec but for
                ``session_id``, ``epoch``, ``kind`` and ``pacing``.
        """
        refused = self._door.problem_with(spec, self._held.keys())
        if refused is not None:
            return refused
        entry = self.model.entry
        shape = chunk_shape(spec, entry, self.model.codec)
        total = None if spec.num_frames is None else shape.latents_for(spec.num_frames)
        latent_hw = (spec.height // 8, spec.width // 8)
        demand = self._door.demand(spec, self.generator.pages_for(latent_hw, total))
        closed = self._door.closed_to(demand, self._taken())
        if closed is not None:
            return closed
        stream = self.generator.open(latent_hw, total)
        if stream is None:
            return Wait(f"the stream needs {demand.pages} pages; fewer are free")
        pinned = spec.num_steps is not None or not self._config.adapt_steps
        steps = spec.num_steps or entry.sampler.num_steps
        first_steps = entry.sampler.passes(steps, 0)
        session = Session(spec, shape, steps, first_steps, pinned, demand.chunk_s, now)
        held = Held(session, stream, demand)
        if snapshot is not None:
            try:
                snapshot.restore(held, self.model, self.generator)
            except SnapshotError as error:
                self.generator.close(stream)
                return Refused("bad_snapshot", str(error))
        self._held[spec.session_id] = held
        self._streams_changed()
        self._prompts.request(held.texts)
        return Admitted(spec.session_id, shape.chunk_frames, session.next_frame)

    def snapshot(self, session_id: str) -> Snapshot | None:
        """Copy what the stream needs to go on elsewhere; None when there is no such session.

        What is being made must have been reported before, see ``land``.
        """
        assert self._flight is None, "a state is taken between two chunks; land() first"
        held = self._held.get(session_id)
        if held is None:
            return None
        return Snapshot.take(held, self.model, self.generator)

    def enter(self) -> None:
        """Prepare the calling thread; the one that builds an engine is prepared."""
        make_current(self.model.device)

    def apply(self, command: Command, now: float) -> tuple[EngineEvent, ...]:
        """Carry out one command; one for a session that is gone does nothing."""
        held = self._held.get(command.session_id)
        if held is None:
            return ()
        session = held.session
        match command:
            case UpdatePrompt(update=update):
                return held.update_prompt(update, self._prompts)
            case Credit(frame=frame):
                session.playout.credit(frame, now)
            case Pause():
                events = self.land()
                return events + (session.pause(now) if command.session_id in self._held else ())
            case Play():
                session.play(now)
            case Stop():
                events = self.land()
                if command.session_id in self._held:
                    events += (self._end(command.session_id, "stopped"),)
                return events
        return ()

    def close(self) -> None:
        """End the engine's own threads: the one that embeds texts, those that draw noise."""
        self._prompts.close()
        if self._ahead is not None:
            self._ahead.close()

    def fail_all(self, error: str) -> tuple[EngineEvent, ...]:
        """End every session with ``error``."""
        self._flight = None
        return tuple(self._end(session_id, "error", error) for session_id in list(self._held))

    def next_deadline(self, now: float) -> float | None:
        """Return when ``step`` next has work without a further command; None is never."""
        if self._flight is not None:
            return now
        times = [
            held.session.runnable_at() if self._prompts.ready(held.awaited_texts) else now + POLL_S
            for held in self._held.values()
        ]
        times += [now + POLL_S for held in self._held.values() if held.arriving is not None]
        return min((at for at in times if at is not None), default=None)

    def step(self, now: float) -> tuple[EngineEvent, ...]:
        """Ask for at most one chunk for each session of one batch; report what is there.

        Where the device works by itself, a batch's chunks are reported by a later step, when the
        next batch has been asked for or there is none. A first picture waits for nobody, nor does
        any where asking waits for the device.
        """
        events = [
            event for held in self._held.values() for event in held.take_arrived(self._prompts)
        ]
        flight = self._flight
        if flight is not None and (
            flight.ready() or flight.opens() or not self.generator.asynchronous
        ):
            waiting_since = self._clock()
            events += self.land()
            now += self._clock() - waiting_since
        free_at = now if self._flight is None else max(now, self._free_at)
        output = schedule(self._candidates(now), self.costs, free_at, self._config.max_batch)
        if output is None:
            return (*events, *self.land())
        rows = [self._held[session_id] for session_id in output.session_ids]
        try:
            flight = self._maker.launch(rows, now, self._clock)
        except Exception as error:
            log.exception("a tick failed for %s", ", ".join(output.session_ids))
            events += self.land()
            reason = f"{type(error).__name__}: {error}"
            failed = [session_id for session_id in output.session_ids if session_id in self._held]
            return (*events, *(self._end(session_id, "error", reason) for session_id in failed))
        events += self.land()
        # The one before has landed: from here on the device works for this one alone.
        cost_s = self.costs.chunk_s(len(flight.chunks), output.steps)
        self._free_at = flight.time_at(self._clock()) + cost_s
        self._flight = flight
        return (*events, *(self.land() if flight.ready() else ()))

    def land(self) -> tuple[EngineEvent, ...]:
        """Wait for the chunks that are being made, if there are any, and report them."""
        flight, self._flight = self._flight, None
        return () if flight is None else tuple(self._report(flight))

    def capacity(self) -> Capacity:
        """Return how full the engine is; counted anew only when a stream came or went."""
        if self._capacity is None:
            taken = self._taken()
            self._capacity = Capacity(
                streams_fit=self._door.streams_fit,
                streams_free=self._door.streams_free(taken),
                sessions_live=taken.live,
                sessions_jobs=taken.jobs,
                pages_total=self.generator.pages.total,
                pages_in_use=self.generator.pages.in_use,
                load=self._door.load(taken),
                chunk_seconds=self._door.typical.chunk_s,
            )
        return self._capacity

    def _candidates(self, now: float) -> list[Candidate]:
        own_first = self.model.entry.sampler.first_chunk_steps is not None
        candidates = (
            held.candidate(own_first, now)
            for held in self._held.values()
            if self._prompts.ready(held.awaited_texts)
        )
        return [candidate for candidate in candidates if candidate is not None]

    def _report(self, flight: Flight) -> list[EngineEvent]:
        """Wait for the chunks of a flight and report those of sessions that are still held."""
        events: list[EngineEvent] = []
        for chunk in flight.chunks:
            session, plan = chunk.held.session, chunk.plan
            session_id = session.spec.session_id
            if self._held.get(session_id) is not chunk.held:
                continue
            try:
                if isinstance(chunk.frames, PendingFrames):
                    chunk.frames.result()
                now = flight.time_at(self._clock())
                ready = chunk.report(now, flight.now, flight.begun.until(flight.denoised))
                events += [*session.receipts(plan), ready]
                if plan.last:
                    events.append(self._end(session_id, "complete"))
            except Exception as error:
                log.exception(
                    "chunk %d of %s cannot be decoded", plan.index, session_id, exc_info=error
                )
                events.append(self._end(session_id, "error", f"{type(error).__name__}: {error}"))
        return events

    def _taken(self) -> Taken:
        return Taken.by(held.demand for held in self._held.values())

    def _streams_changed(self) -> None:
        self._capacity = None
        if self._ahead is not None:
            self._ahead.keep(sum(held.session.most_steps for held in self._held.values()))

    def _end(self, session_id: str, reason: EndReason, error: str | None = None) -> SessionEnded:
        held = self._held.pop(session_id)
        self._streams_changed()
        self.generator.close(held.stream)
        return SessionEnded(session_id, reason, *held.session.made, error)
