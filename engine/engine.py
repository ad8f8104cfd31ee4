"""The engine: sessions in, chunks of frames out, one tick at a time.

``step(now)`` chooses a batch of sessions, makes one chunk for each and returns what happened. It
is single-threaded and, given the same calls at the same times, does the same. It joins the parts
and decides nothing they could decide: whose turn it is (``scheduler``), who is let in
(``admission``), what a stream shows (``session``), how latents are made (``generator``) and
become frames (``pixels``). It knows neither threads nor wires.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from engine.admission import Demand
from engine.config import EngineConfig, MemoryPlan, free_memory, plan_memory
from engine.cost_table import CostTable
from engine.door import Door
from engine.generator import Generator
from engine.held import Held
from engine.measure import measure_costs
from engine.noise_ahead import DrawNoise
from engine.pixels import Pixels
from engine.prompt_timeline import problem_with
from engine.prompts import PromptStore
from engine.scheduler import Candidate, SchedulerOutput, schedule
from engine.session import ChunkPlan, Session
from engine.snapshot import Snapshot, SnapshotError
from engine.start import chunk_shape, start_frames
from engine.stream import Stream
from engine.types import (
    Admission,
    Admitted,
    Capacity,
    ChunkReady,
    Command,
    Credit,
    EndReason,
    EngineEvent,
    Pause,
    Play,
    PromptQueued,
    PromptRejected,
    PromptSuperseded,
    PromptUpdate,
    Refused,
    SessionEnded,
    Stop,
    StreamSpec,
    UpdatePrompt,
    Wait,
)
from models.interface import LoadedModel
from models.noise import noise
from models.paged_kv import KVPool
from models.sampler import Schedule

log = logging.getLogger(__name__)

MakePool = Callable[[int, int, int, int, int, torch.dtype, torch.device], KVPool]

SMALL_TEXT_DIM = 1024
"""Text encoders up to this width take milliseconds and run between two ticks."""

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
        draw_noise: Noise of a place in a stream, perhaps drawn ahead (``engine.noise_ahead``).
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
        draw_noise: DrawNoise = noise,
        make_pool: MakePool = KVPool,
    ) -> None:
        self.model = model
        self._draw_noise = draw_noise
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
        ahead = config.encode_ahead
        if ahead is None:
            ahead = entry.text.dim > SMALL_TEXT_DIM
        self._encoder = ThreadPoolExecutor(1, "text-encoder") if ahead else None
        self._prompts = PromptStore(
            model.text, model.transformer.prompt_kv, config.prompt_bytes, self._encoder
        )
        self._held: dict[str, Held] = {}
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
        closed = self._door.closed_to(demand, self._demands())
        if closed is not None:
            return closed
        stream = self.generator.open(latent_hw, total)
        if stream is None:
            return Wait(f"the stream needs {demand.pages} pages; fewer are free")
        pinned = spec.num_steps is not None or not self._config.adapt_steps
        session = Session(
            spec, shape, spec.num_steps or len(entry.sampler.steps), pinned, demand.chunk_s, now
        )
        if snapshot is not None:
            try:
                self._restore(session, stream, snapshot, demand.chunk_s)
            except SnapshotError as error:
                self.generator.close(stream)
                return Refused("bad_snapshot", str(error))
        self._held[spec.session_id] = Held(session, stream, demand)
        self._prompts.request(session.prompts.texts)
        return Admitted(spec.session_id, shape.chunk_frames, session.next_frame)

    def snapshot(self, session_id: str) -> Snapshot | None:
        """Copy what the stream needs to go on elsewhere; None when there is no such session."""
        held = self._held.get(session_id)
        if held is None:
            return None
        if held.arriving is not None:
            # It was promised to the client, so it goes along.
            held.session.update_prompt(held.arriving)
            held.arriving = None
        return Snapshot.take(self._model_id, held.session.state(), held.stream, self.generator)

    def apply(self, command: Command, now: float) -> tuple[EngineEvent, ...]:
        """Carry out one command; one for a session that is gone does nothing."""
        held = self._held.get(command.session_id)
        if held is None:
            return ()
        session = held.session
        match command:
            case UpdatePrompt(update=update):
                return self._update_prompt(held, update)
            case Credit(frame=frame):
                session.playout.credit(frame, now)
            case Pause():
                return session.pause(now)
            case Play():
                session.play(now)
            case Stop():
                return (self._end(command.session_id, "stopped"),)
        return ()

    def close(self) -> None:
        """End the thread that embeds texts, if there is one."""
        if self._encoder is not None:
            self._encoder.shutdown(cancel_futures=True)

    def fail_all(self, error: str) -> tuple[EngineEvent, ...]:
        """End every session with ``error``."""
        return tuple(self._end(session_id, "error", error) for session_id in list(self._held))

    def next_deadline(self, now: float) -> float | None:
        """Return when ``step`` next has work without a further command; None is never."""
        times = [
            held.session.runnable_at() if self._prompts.ready(held.first_texts) else now + POLL_S
            for held in self._held.values()
        ]
        times += [now + POLL_S for held in self._held.values() if held.arriving is not None]
        return min((at for at in times if at is not None), default=None)

    def step(self, now: float) -> tuple[EngineEvent, ...]:
        """Make at most one chunk for each session of one batch."""
        arrived = self._take_arrived()
        output = schedule(self._candidates(now), self.costs, now, self._config.max_batch)
        if output is None:
            return arrived
        try:
            return (*arrived, *self._tick(output, now))
        except Exception as error:
            log.exception("a tick failed for %s", ", ".join(output.session_ids))
            reason = f"{type(error).__name__}: {error}"
            ended = (self._end(session_id, "error", reason) for session_id in output.session_ids)
            return (*arrived, *ended)

    def capacity(self) -> Capacity:
        """Return how full the engine is."""
        demands = self._demands()
        live = sum(demand.kind == "live" for demand in demands)
        return Capacity(
            streams_fit=self._door.streams_fit,
            streams_free=self._door.streams_free(demands),
            sessions_live=live,
            sessions_jobs=len(demands) - live,
            pages_total=self.generator.pages.total,
            pages_in_use=self.generator.pages.in_use,
            load=self._door.load(demands),
            chunk_seconds=self._door.typical.chunk_s,
        )

    def _candidates(self, now: float) -> list[Candidate]:
        own_first = self.model.entry.sampler.first_chunk_steps is not None
        candidates = (
            held.candidate(own_first, now)
            for held in self._held.values()
            if self._prompts.ready(held.first_texts)
        )
        return [candidate for candidate in candidates if candidate is not None]

    def _tick(self, output: SchedulerOutput, now: float) -> tuple[EngineEvent, ...]:
        rows = [self._held[session_id] for session_id in output.session_ids]
        started = self._clock()
        plans = [held.session.start_chunk(now) for held in rows]
        if rows[0].starts_from_given(plans[0].index):
            latents = self._given_latents(rows[0], plans[0])
        else:
            latents = self._new_latents(rows, plans)
        denoise_s = self._clock() - started
        events: list[EngineEvent] = []
        for row, (held, plan) in enumerate(zip(rows, plans, strict=True)):
            try:
                events += self._finish(held, plan, latents[row : row + 1], now, started, denoise_s)
            except Exception as error:
                session_id = held.session.spec.session_id
                log.exception("chunk %d of %s cannot be decoded", plan.index, session_id)
                events.append(self._end(session_id, "error", f"{type(error).__name__}: {error}"))
        return tuple(events)

    def _finish(
        self,
        held: Held,
        plan: ChunkPlan,
        latents: Tensor,
        now: float,
        started: float,
        denoise_s: float,
    ) -> list[EngineEvent]:
        """Decode one row of a tick and report it."""
        session = held.session
        decoding = self._clock()
        frames = held.delivered(self._pixels.decode(held.stream, latents), plan)
        ready = self._clock()
        slack_s = session.finish_chunk(plan, now + ready - started, held.demand.chunk_s)
        events: list[EngineEvent] = [*session.receipts(plan)]
        events.append(
            ChunkReady(
                session_id=session.spec.session_id,
                epoch=session.spec.epoch,
                chunk_index=plan.index,
                first_frame=plan.first_frame,
                num_frames=plan.frames,
                frames=frames,
                prompt_rev=plan.prompt.rev,
                steps=0 if held.starts_from_given(plan.index) else plan.steps,
                queue_ms=1000 * (now - plan.ready_since),
                denoise_ms=1000 * denoise_s,
                decode_ms=1000 * (ready - decoding),
                slack_s=slack_s,
            )
        )
        if plan.last:
            events.append(self._end(session.spec.session_id, "complete"))
        return events

    def _given_latents(self, held: Held, plan: ChunkPlan) -> Tensor:
        """Encode the start image or clip and put it at the start of the stream's cache."""
        image = held.session.spec.start_image
        assert image is not None
        latents = self._pixels.encode(start_frames(image, self.model.entry))
        assert latents.shape[1] == plan.latents, (latents.shape, plan.latents)
        self.generator.prefill(held.stream, latents, self._prompts.get(plan.prompt.mix))
        return latents

    def _new_latents(self, rows: Sequence[Held], plans: Sequence[ChunkPlan]) -> Tensor:
        frames = plans[0].latents
        shape = (frames, self.model.entry.transformer.out_channels, *rows[0].stream.latent_hw)

        def draw(step: int) -> Tensor:
            drawn = [
                self._draw_noise(held.session.spec.seed, plan.index, step, shape)
                for held, plan in zip(rows, plans, strict=True)
            ]
            return torch.stack(drawn).to(self.model.device)

        return self.generator.chunk(
            [held.stream for held in rows],
            frames,
            [self._prompts.get(plan.prompt.mix) for plan in plans],
            [plan.prompt.changed and plan.prompt.recache is not False for plan in plans],
            self._schedule(plans[0]),
            draw,
            last=all(plan.last for plan in plans),
        )

    def _schedule(self, plan: ChunkPlan) -> Schedule:
        sampler = self.model.entry.sampler
        own = plan.steps == len(sampler.steps)
        return sampler.schedule(None if own else plan.steps, plan.index)

    @property
    def _model_id(self) -> str:
        return f"{self.model.entry.name} {self.model.dtype}"

    def _restore(
        self, session: Session, stream: Stream, snapshot: Snapshot, expected_s: float
    ) -> None:
        if snapshot.model != self._model_id:
            raise SnapshotError(
                f"a snapshot of {snapshot.model}; this engine runs {self._model_id}; restore it there"
            )
        snapshot.put(stream, self.generator)
        try:
            session.restore(snapshot.session, expected_s)
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"a damaged snapshot ({error!r}); start the stream anew") from None

    def _update_prompt(self, held: Held, update: PromptUpdate) -> tuple[EngineEvent, ...]:
        """Queue a change at once, or when its texts have been embedded."""
        session = held.session
        problem = problem_with(update.prompts)
        if problem is not None:
            return (PromptRejected(session.spec.session_id, update.event_id, problem),)
        texts = [part.text for part in update.prompts]
        self._prompts.request(texts)
        session_id, replaced = session.spec.session_id, held.arriving
        held.arriving = update
        events: list[EngineEvent] = [PromptQueued(session_id, update.event_id, session.chunk_index)]
        if replaced is not None:
            events.append(PromptSuperseded(session_id, replaced.event_id, update.event_id))
        return (*events, *self._take_arrived([held]))

    def _take_arrived(self, rows: Iterable[Held] | None = None) -> tuple[EngineEvent, ...]:
        """Hand changes whose texts are embedded to their sessions."""
        events: list[EngineEvent] = []
        for held in self._held.values() if rows is None else rows:
            update = held.arriving
            if update is None or not self._prompts.ready([p.text for p in update.prompts]):
                continue
            held.arriving = None
            events.extend(held.session.update_prompt(update))
        return tuple(events)

    def _demands(self) -> list[Demand]:
        return [held.demand for held in self._held.values()]

    def _end(self, session_id: str, reason: EndReason, error: str | None = None) -> SessionEnded:
        held = self._held.pop(session_id)
        self.generator.close(held.stream)
        session = held.session
        return SessionEnded(session_id, reason, session.chunk_index, session.next_frame, error)
