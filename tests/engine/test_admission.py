from engine.admission import Demand, Limits, Taken, admit
from engine.events import Refused, Wait

LIMITS = Limits(pages=36, decoder_bytes=30, sessions=3, jobs=2, load=0.9, live_pages=12)


def demand(kind="live", pacing="realtime", pages=12, decoder_bytes=10, chunk_s=0.3):
    return Demand(kind, pacing, pages, decoder_bytes, chunk_s, chunk_media_s=0.75)


def test_what_streams_take_adds_up():
    held = [demand(), demand("job", pages=4), demand(pacing="asap")]
    assert Taken.by(held) == Taken(
        live=2, jobs=1, realtime=1, pages=28, decoder_bytes=30, load=0.3 / 0.75
    )
    assert Taken.by(held) == Taken.by(held[:2]).plus(held[2])
    assert Taken.by([]) == Taken()


def test_a_stream_that_no_pool_could_hold_is_refused_and_never_waits():
    answer = admit(demand(pages=37), Taken.by([demand()] * 3), LIMITS, 1.0)
    assert isinstance(answer, Refused)
    assert answer.code == "too_large"


def test_each_limit_says_what_it_counted():
    small = demand("job", pages=1, decoder_bytes=1)
    for asked, held, said in (
        (demand("live", "asap", 1, 1), [demand("live", "asap", 1, 1)] * 3, "3 streams are running"),
        (small, [small] * 2, "2 jobs are running"),
        (demand(), [demand("live", "asap", 13, 1)] * 2, "12 pages; 10 are free"),
        (demand(decoder_bytes=11), [demand("live", "asap", 1, 20)], "31 bytes; 30 are set aside"),
        (demand(), [demand()] * 2, "120% of the device; 90%"),
    ):
        answer = admit(asked, Taken.by(held), LIMITS, 1.0)
        assert isinstance(answer, Wait)
        assert said in answer.reason


def test_streams_that_share_batches_need_less_of_the_device():
    assert admit(demand(), Taken.by([demand()] * 2), LIMITS, 0.7) is None


def test_only_a_job_beside_jobs_alone_leaves_room_for_a_live_stream():
    job = demand("job", pages=24)
    assert admit(job, Taken(), LIMITS, 1.0) is None
    assert admit(job, Taken.by([demand()]), LIMITS, 1.0) is None
    assert isinstance(admit(job, Taken.by([demand("job")]), LIMITS, 1.0), Wait)
