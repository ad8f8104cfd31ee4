"""The gateway: connections, and nothing else. Any gateway serves any stream.

``app``         the FastAPI application.        ``auth``     keys and origins.
``realtime``    the WebSocket endpoint.         ``owner``    one owner's connection.
``opening``     start and resume.               ``reader``   a viewer's way through the media stream.
``wrap``        entries to avcc, m4s or jpeg.   ``streams``  REST over live streams, live.mp4.
``status``      health, models, metrics.        ``envelope`` errors in OpenAI's shape.
``outage``      Redis away, for one connection.  ``silence``  no media, for one connection.
``openapi``     what /docs says.
"""
