"""The fabric: what gateways and workers say to each other through Redis (6.2 commands only).

Work is a ticket, the record is elsewhere. Read in this order:

``keys``        every Redis key, one function each.
``connection``  ``Connection``: a client whose commands survive a short loss of Redis.
``queue``       ``WorkQueue`` of (model, kind): ``put`` a subject's id, ``take`` a ``Ticket``,
                ``take_over`` tickets whose owner fell silent, ``position``, ``depth``.
``claim``       ``claim(...)`` turns a ticket into a ``Claim`` with a fencing epoch, or says that it
                was dropped or is dead. ``Claim.renew`` every ``RENEW_S``; ``publish`` and ``update``
                write only while the epoch is still ours; ``finish`` ends the work, ``release``
                gives it back for another worker.
``record``      the hash of a session or job: created, read, forgotten.
``streams``     control stream (gateway to worker) and media stream (worker to gateways).
``workers``     each worker's snapshot with a time to live.

A job of kind ``job`` rides exactly as a live session does::

    await create_record(redis, "job", job_id, {"state": "queued", "spec": "..."})
    await WorkQueue(redis, model, "job").put(job_id)
    # in a worker
    ticket = await queue.take("worker-1", block_ms=1000)
    held = await claim(redis, ticket, "worker-1")
    if isinstance(held, Claim):
        while working and await held.renew():  # every RENEW_S
            await held.update({"progress": "40"})  # False: somebody else owns it now, stop
        await held.finish({"state": "completed"})
"""
