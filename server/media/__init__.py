"""Frames in, bytes a player understands out: encoders and an MP4 writer of our own.

Nothing here knows sessions, sockets, Redis or time of day.
"""
