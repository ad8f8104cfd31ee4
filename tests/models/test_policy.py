"""Which frames a chunk attends to, and policies that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.policy import CachePolicy


def test_the_window_counts_the_sink_and_the_chunk():
    policy = CachePolicy(window_frames=9, sink_frames=3)
    assert policy.attended(9) == tuple(range(9))
    assert policy.attended(12) == (0, 1, 2, 6, 7, 8, 9, 10, 11)
    assert policy.attended(30) == (0, 1, 2, 24, 25, 26, 27, 28, 29)


def test_without_a_window_the_whole_stream_is_attended():
    assert CachePolicy().attended(100) == tuple(range(100))


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 9), st.integers(1, 40))
def test_no_frame_comes_back_once_it_left(chunk, sink, more, chunks):
    policy = CachePolicy(sink + chunk + more, sink, chunk_frames=chunk)
    seen = set(range(chunk))
    for index in range(1, chunks):
        end = (index + 1) * chunk
        attended = policy.attended(end)
        assert len(attended) == min(end, sink + chunk + more)
        assert set(attended) <= seen | set(range(end - chunk, end))
        assert attended == tuple(sorted(attended))
        assert attended[:sink] == tuple(range(min(sink, end)))
        seen = set(attended)


def test_a_stream_without_a_window_is_planned_with_one_of_21_latent_frames():
    assert CachePolicy().planned_window == 21
    assert CachePolicy(window_frames=9).planned_window == 9


def test_only_the_first_chunk_can_be_a_single_frame():
    assert [CachePolicy().chunk_size(index) for index in range(3)] == [3, 3, 3]
    alone = CachePolicy(independent_first_frame=True)
    assert [alone.chunk_size(index) for index in range(3)] == [1, 3, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk_frames": 0}, "at least one frame"),
        ({"sink_frames": -1}, "at least one frame"),
        ({"window_frames": 5, "sink_frames": 3}, "must hold both"),
        ({"rope": "window"}, "need a window"),
        ({"context_timestep": 1001.0}, "from 0 to 1000"),
        ({"past_weight": 0.0}, "above 0"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CachePolicy(**fields)
