"""What fits is what the engine's own plan would take, and what does not fit is told how to."""

from dataclasses import replace

import pytest

from engine.accelerated import entry_under
from engine.work_policy import WorkPolicy
from models.needs import Needs, needs
from models.registry import find
from server.worker.room import Room, check_room

NEED = Needs(
    disk_bytes=0,
    transformer_bytes=2_800_000_000,
    codec_bytes=200_000_000,
    text_bytes=11_000_000_000,
    kv_bytes=5_900_000_000,
    prompt_bytes=100_000_000,
    decoder_state_bytes=100_000_000,
)
BARELY = 3_000_000_000 + 100_000_000 + 2 * 6_000_000_000
"""Weights, a prompt, and twice a stream, since streams may have half of what is left."""


def room(free: int, **changes: object) -> Room:
    return replace(Room("cuda", free, 0.5), **changes)  # type: ignore[arg-type]


def test_what_fits_barely_fits_and_a_byte_less_does_not() -> None:
    check_room(NEED, room(BARELY), text_here=False)
    with pytest.raises(
        ValueError, match=r"cuda has 15\.1 GB free; stop what else uses it, or choose"
    ):
        check_room(NEED, room(BARELY - 1), text_here=False)


def test_the_text_encoder_counts_where_it_stays() -> None:
    check_room(NEED, room(BARELY + NEED.text_bytes), text_here=True)
    with pytest.raises(ValueError, match="keep the text encoder on the CPU"):
        check_room(NEED, room(BARELY + NEED.text_bytes - 1), text_here=True)


def test_on_a_cpu_it_counts_wherever_it_is_put_and_nobody_is_told_to_move_it() -> None:
    whole = BARELY + NEED.text_bytes
    check_room(NEED, room(whole, is_cpu=True), text_here=False)
    with pytest.raises(ValueError, match=r"has 26\.1 GB; choose a shorter window") as refused:
        check_room(NEED, room(whole - 1, is_cpu=True, name="cpu"), text_here=True)
    assert "--text-device" not in str(refused.value)


def test_devices_that_share_a_stream_share_its_keys() -> None:
    half = BARELY - NEED.kv_bytes
    check_room(NEED, room(half, devices=2), text_here=False)
    with pytest.raises(ValueError, match=r"a stream 3\.0 GB"):
        check_room(NEED, room(half - 1, devices=2), text_here=False)


def test_a_shorter_window_fits_where_the_model_s_own_does_not() -> None:
    own = find("wan2.1-1.3b-self-forcing")
    short = entry_under(own, WorkPolicy(window=9))
    there = room(9_500_000_000)
    check_room(needs(short, codec="taehv"), there, text_here=False)
    with pytest.raises(ValueError, match="--policy window=N"):
        check_room(needs(own, codec="taehv"), there, text_here=False)
