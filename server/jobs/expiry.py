"""Deletes ended jobs that have been kept long enough, with their files.

Every gateway does it now and then; two at once delete the same jobs once. Which jobs those are
is the store's to say.
"""

import asyncio
import logging
from pathlib import Path

from server.fabric.connection import FabricError
from server.jobs.segments import JobFolder
from server.jobs.store import JobStore

log = logging.getLogger(__name__)

LOOK_S = 600.0
PAGE = 100


async def sweep(store: JobStore, data_dir: Path) -> int:
    """Delete what is due; return how many jobs that were."""
    after, gone = None, 0
    while True:
        page = await store.page(after=after, limit=PAGE, newest_first=False)
        for job in page.jobs:
            if not store.expired(job.created_at):
                return gone  # they come in the order in which they were made
            if job.ended and store.expired(job.completed_at) and await store.delete(job.id):
                await asyncio.to_thread(JobFolder(data_dir, job.id).remove)
                gone += 1
        if not page.has_more:
            return gone
        after = page.last


async def keep_sweeping(store: JobStore, data_dir: Path, every_s: float = LOOK_S) -> None:
    """Sweep until cancelled; whatever fails is tried again the next time."""
    while True:
        try:
            gone = await sweep(store, data_dir)
            if gone:
                log.info("%d jobs had been kept long enough and were deleted", gone)
        except FabricError as error:
            log.warning("jobs that are due could not be deleted: %s", error)
        except Exception:
            log.exception("jobs that are due could not be deleted")
        await asyncio.sleep(every_s)
