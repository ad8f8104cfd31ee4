"""The realtime wire protocol, version 1, without any input or output.

``messages_in`` and ``messages_out`` are the typed messages, ``parse`` turns bytes from a client
into one of them or into an error message, ``conversation`` says which message is allowed when.
Nothing here knows sockets, Redis or models; ``server.gateway`` moves the bytes.
"""
