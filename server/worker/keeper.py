"""Keeps a running stream's engine state, so that another worker can go on from it.

Now and then, while the stream gets on; what it costs bounds how often. Knows no media and no control
messages.
"""

import asyncio
import logging

from server.tasks import in_executor
from server.worker.kept import COST_SHARE, MAX_BYTES, KeptState, KeptStates
from server.worker.output import Output
from server.worker.parts import LiveParts
from server.worker.start import Beginning
from server.worker.steering import Steering

log = logging.getLogger(__name__)


class Keeper:
    """Keeps one stream's state for as long as it runs."""

    def __init__(
        self,
        parts: LiveParts,
        session_id: str,
        begin: Beginning,
        output: Output,
        steering: Steering,
    ) -> None:
        """Prepare to keep.

        Args:
            parts: What the worker's streams share.
            session_id: Whose state.
            begin: How the stream began here.
            output: Knows what viewers have.
            steering: Knows the newest prompts.
        """
        self._parts = parts
        self._session_id = session_id
        self._begin = begin
        self._output = output
        self._steering = steering

    async def run(self, states: KeptStates) -> None:
        """Keep a state every few seconds, for ever."""
        clock, output = self._parts.clock, self._output
        kept_at, pause_s = output.chunks, states.keep_s
        while True:
            await asyncio.sleep(pause_s)
            if output.chunks == kept_at:
                continue
            began, kept_at = clock(), output.chunks
            if not await self._keep(states):
                break
            pause_s = max(states.keep_s, (clock() - began) / COST_SHARE)
        # Nothing more to keep; a task that ended would count as the stream's end.
        await asyncio.Event().wait()

    async def _keep(self, states: KeptStates) -> bool:
        """Keep the state as it is now; False when there will be none to keep."""
        prompts = self._steering.prompts
        try:
            data = await self._parts.bridge.snapshot(self._begin.spec.session_id)
        except Exception:
            # A copy of a large state may not fit into memory; the stream itself is not harmed.
            log.exception("stream %s: no state could be taken, none will be", self._session_id)
            return False
        if data is None or len(data) > MAX_BYTES:
            return False
        # The engine is ahead of what viewers have; a state from there would skip pictures.
        await self._output.reached(self._output.made)
        state = KeptState(self._begin.offset, prompts, data)
        try:
            await in_executor(self._parts.executor, states.write, self._session_id, state)
        except OSError as error:
            # A full disk costs a takeover its smooth beginning, not the viewers their stream.
            log.warning("stream %s: its state was not kept: %s", self._session_id, error)
        return True
