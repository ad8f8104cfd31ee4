"""Redis keys of video jobs, beside the record itself (``server.fabric.keys.record``)."""

from server.fabric.keys import PREFIX

INDEX = f"{PREFIX}:jobs"
"""Sorted set of job ids by their number."""
NUMBER = f"{PREFIX}:job-number"
"""Counter that numbers jobs in the order of creation."""


def segments(job_id: str) -> str:
    """Return the list of committed segments (JSON), in playing order."""
    return f"{PREFIX}:job-segments:{job_id}"


def events(job_id: str) -> str:
    """Return the capped stream of what happened to a job; entry ids are ``<sequence>-0``."""
    return f"{PREFIX}:job-events:{job_id}"


def idempotency(key: str) -> str:
    """Return where the job made under an ``Idempotency-Key`` is remembered."""
    return f"{PREFIX}:job-once:{key}"
