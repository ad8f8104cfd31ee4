from engine.playout import ACK_SLACK_FRAMES
from server.worker.credit import ViewerCredit


def test_nothing_is_credited_before_anything_was_sent() -> None:
    for pacing in ("realtime", "asap"):
        assert ViewerCredit(pacing, 16).frame(100.0) == -1  # type: ignore[arg-type]


def test_asap_credits_what_the_socket_has_taken() -> None:
    credit = ViewerCredit("asap", 16)
    credit.sent(8, 0.0)
    credit.acknowledged(2)
    assert credit.frame(0.0) == 8


def test_the_clock_credits_a_silent_client_but_never_beyond_what_was_sent() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(8, 10.0)
    assert credit.frame(10.0) == -1
    assert credit.frame(10.25) == 3
    assert credit.frame(99.0) == 8


def test_an_ack_ends_the_clock_for_good() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(8, 0.0)
    credit.acknowledged(4)
    assert credit.frame(99.0) == 4
    credit.acknowledged(2)
    assert credit.frame(99.0) == 4


def test_an_ack_of_frames_never_sent_counts_as_the_last_one_sent() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(8, 0.0)
    credit.acknowledged(10**9)
    assert credit.frame(1.0) == 8


def test_an_ack_that_overtakes_the_note_of_its_sending_is_not_lost() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.acknowledged(8)
    credit.sent(8, 0.0)
    assert credit.frame(1.0) == 8


def test_acks_that_run_ahead_of_the_clock_are_worth_what_a_viewers_would_be() -> None:
    greedy, silent = ViewerCredit("realtime", 16), ViewerCredit("realtime", 16)
    greedy.acknowledged(10**9)
    for second in range(10):
        for credit in (greedy, silent):
            credit.sent(16 * (second + 3), float(second))
        ahead = greedy.frame(second + 0.5) - silent.frame(second + 0.5)
        assert ahead == ACK_SLACK_FRAMES


def test_a_wait_for_frames_or_for_play_saves_up_nothing_for_acks_ahead_of_the_clock() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.acknowledged(10**9)
    credit.sent(31, 0.0)
    credit.stand(1.0)
    # What was sent may be played out during the pause.
    assert credit.frame(60.0) == 31
    credit.go(60.0)
    credit.sent(1000, 60.0)
    assert credit.frame(60.5) == 31 + 8 + ACK_SLACK_FRAMES


def test_a_viewer_that_plays_on_time_is_credited_with_each_frame_it_shows() -> None:
    credit = ViewerCredit("realtime", 16)
    for chunk in range(20):
        credit.sent(9 + 12 * chunk - 1, 0.7 * chunk)
    for frame in range(200):
        now = 0.7 * 19 + frame / 16
        credit.acknowledged(frame)
        assert credit.frame(now) == frame


def test_a_viewer_whose_clock_runs_fast_is_credited_for_hours_with_each_frame_it_shows() -> None:
    fps, lead = 16, 24
    credit = ViewerCredit("realtime", fps)
    for frame in range(fps * 7200):
        now = frame / (fps * 1.0002)
        credit.sent(frame + lead, now)
        credit.acknowledged(frame)
        assert credit.frame(now) == frame


def test_frames_skipped_move_what_may_be_acknowledged() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(8, 0.0)
    credit.skipped(100)
    credit.sent(112, 0.0)
    credit.acknowledged(102)
    assert credit.frame(0.0) == 102


def test_the_clock_stands_while_paused() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(100, 0.0)
    credit.stand(1.0)
    assert credit.frame(5.0) == 15
    credit.go(5.0)
    assert credit.frame(5.5) == 23


def test_a_stream_taken_over_begins_behind_what_was_published() -> None:
    credit = ViewerCredit("realtime", 16, first_frame=33)
    assert credit.frame(0.0) == 32
    credit.sent(44, 0.0)
    assert credit.frame(0.25) == 36


def test_frames_that_cannot_be_shown_are_credited_without_ending_the_clock() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.sent(8, 0.0)
    credit.skipped(20)
    assert credit.frame(0.0) == 20
    credit.sent(200, 0.5)
    assert credit.frame(10.0) == 159
