"""Video jobs: ``/v1/videos``, their durable records, segments and the code that runs them.

``request``   what is asked, checked.   ``forms``, ``images``  how it arrives.
``parse``     a new job's request from its ``fields``.   ``derive``  one from an older job.
``record``    a job as it stands, and the OpenAI Video object.
``store``     records in Redis, every change one script (``scripts``), fenced by the claim's epoch.
``segments``  a job's files, each written whole.   ``recorder``  chunks to segments.
``runner``    one claimed job from begin to end.   ``spec``  what the engine is asked for it.
``routes``    HTTP, with ``making`` (new jobs), ``playlist`` (HLS) and ``sse`` (events).

A worker passes ``JobRunner(RunnerParts(store=JobStore(redis, clock), engine=bridge, ...))`` to its
host as ``run_job``; a gateway includes ``jobs_router(JobParts(...))`` in its application.
"""
