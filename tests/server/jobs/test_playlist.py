"""The playlist's text: it only ever grows, and ends when the job has."""

import itertools

from server.jobs.playlist import event_playlist
from server.jobs.record import Segment


def segments(*counts: int) -> list[Segment]:
    found, first = [], 0
    for count in counts:
        found.append(Segment(f"seg-{first}.m4s", "init.mp4", first, count, 1))
        first += count
    return found


def test_the_text_is_as_players_expect() -> None:
    assert event_playlist(segments(45, 48), 16, ended=False) == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:7\n"
        "#EXT-X-TARGETDURATION:3\n"
        "#EXT-X-MEDIA-SEQUENCE:0\n"
        "#EXT-X-PLAYLIST-TYPE:EVENT\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        '#EXT-X-MAP:URI="segments/init.mp4"\n'
        "#EXTINF:2.812500,\n"
        "segments/seg-0.m4s\n"
        "#EXTINF:3.000000,\n"
        "segments/seg-45.m4s\n"
    )


def test_it_only_grows_and_its_target_never_changes() -> None:
    counts = (45, 48, 48, 7)
    shown = [event_playlist(segments(*counts[:n]), 16, ended=False) for n in (1, 2, 3, 4)]
    shown.append(event_playlist(segments(*counts), 16, ended=True))
    for earlier, later in itertools.pairwise(shown):
        assert later.startswith(earlier)
    assert shown[-1].endswith("#EXT-X-ENDLIST\n")


def test_the_query_goes_with_every_address() -> None:
    text = event_playlist(segments(45, 48), 16, ended=True, query="key=k")
    assert text.count("?key=k") == 3
