"""Video jobs: ``/v1/videos``, their durable records, segments and the code that runs them."""
