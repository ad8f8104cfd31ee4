"""The worker host: tickets in, chunks out. Asyncio around the engine's thread.

``bridge``    the engine's thread seen from the event loop; jobs and live streams share it.
``host``      takes tickets when the engine has room, reports, drains.
``live``      one live stream: admission, control, credit, presence, end.
``output``    one live stream's chunks: encode, publish, receipts.
``credit``    how far the viewer has come (pure).  ``presence`` whether it is there (pure).
``keeper``    keeps its engine state for a takeover.  ``kept`` the files of those states.
``encoders``  the codecs in use of one stream.  ``stats`` the worker's counters.
``job_counts``  counts the chunks of jobs.
"""
