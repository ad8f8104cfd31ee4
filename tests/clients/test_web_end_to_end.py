"""From prompt to picture on real parts: the program, the bundled model, a real browser."""

import pytest

from tests.clients.browser import REQUIRED, needs_browser, open_browser, open_page
from tests.clients.real_server import WEIGHTS, real_server
from tests.clients.watching import LOOK, assert_moves, begin, look, wait_for_state

pytestmark = [
    pytest.mark.browser,
    needs_browser,
    pytest.mark.skipif(
        not WEIGHTS.is_file() and not REQUIRED, reason="the bundled weights are not here"
    ),
]

DAY = "a red ball drifts left over a green meadow under a blue sky at noon"
NIGHT = "a red ball drifts left over a green meadow at night"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("data")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


def brightness(page, looks=5):
    total = 0.0
    for _ in range(looks):
        total += sum(look(page)["mean"]) / 3
        page.wait_for_timeout(200)
    return total / looks


def test_a_prompt_becomes_moving_pictures_and_a_new_one_changes_them(browser, url):
    with open_page(browser) as page:
        begin(page, url, DAY)
        wait_for_state(page, "playing", 60)
        assert_moves(page)
        day = brightness(page)
        page.fill("#prompt", NIGHT)
        page.keyboard.press("Enter")
        page.wait_for_selector("#takes .take >> text=night")
        page.wait_for_selector(
            '#takes .take.now[data-status="shown"] >> text=night', timeout=60_000
        )
        assert "On screen since" in page.inner_text("#takes .take.now .status")
        page.wait_for_function(
            f"(day) => {{ const {{ mean }} = ({LOOK})();"
            " return Math.abs((mean[0] + mean[1] + mean[2]) / 3 - day) > 25; }",
            arg=day,
            timeout=30_000,
            polling=200,
        )
        assert_moves(page)
        page.click("#stop")
        wait_for_state(page, "done")


@pytest.mark.parametrize("way", ["?format=m4s", "?format=jpeg", "?format=avcc&codec=vp8"])
def test_every_other_way_of_playing_shows_moving_pictures(browser, url, way):
    with open_page(browser) as page:
        begin(page, url + way, DAY)
        wait_for_state(page, "playing", 60)
        assert_moves(page)
        assert_moves(page)
        page.click("#stop")
        wait_for_state(page, "done")


def test_the_page_offers_the_models_own_examples(browser, url):
    with open_page(browser) as page:
        page.goto(url)
        page.wait_for_selector(".chip")
        assert "longtake-tiny" in page.inner_text("#server")
