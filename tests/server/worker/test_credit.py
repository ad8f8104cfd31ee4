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
    assert credit.frame(0.0) == 8


def test_an_ack_that_overtakes_the_note_of_its_sending_is_not_lost() -> None:
    credit = ViewerCredit("realtime", 16)
    credit.acknowledged(8)
    credit.sent(8, 0.0)
    assert credit.frame(0.0) == 8


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
