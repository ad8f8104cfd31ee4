"""The page in a real browser against a server that can be told to misbehave.

What is watched is what a viewer sees: the pixels of the picture and the words on the page.
"""

import re
from itertools import pairwise

import pytest

from tests.clients.browser import needs_browser, open_browser, open_page
from tests.clients.fake_server import EXAMPLES, Orders, fake_server
from tests.clients.watching import (
    assert_moves,
    begin,
    look,
    receipts,
    record_receipts,
    wait_for_colour,
    wait_for_state,
)

pytestmark = [pytest.mark.browser, needs_browser]

RED = "a red circle over a meadow"
BLUE = "it turns blue"


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


@pytest.fixture
def orders():
    with fake_server(Orders()) as running:
        yield running


def start(page, orders, prompt=RED, query=""):
    begin(page, orders.url + query, prompt)


@pytest.mark.parametrize("way", ["?format=avcc", "?format=m4s", "?format=jpeg"])
def test_the_picture_moves_and_a_new_prompt_changes_it(browser, orders, way):
    with open_page(browser) as page:
        start(page, orders, query=way)
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        assert_moves(page)
        record_receipts(page)
        page.fill("#prompt", BLUE)
        page.keyboard.press("Enter")
        page.wait_for_selector('#takes .take.now[data-status="shown"] >> text=blue', timeout=20_000)
        *before, applied, shown = receipts(page)
        assert "Queued: waits for the next chunk" in before
        frame = re.fullmatch(r"Takes effect at \d:\d\d\.\d, frame (\d+)", applied)[1]
        assert re.fullmatch(rf"On screen since \d:\d\d\.\d, frame {frame}", shown)
        wait_for_colour(page, 2)
        assert_moves(page)
        assert orders.seen("session.start")[0]["format"] in way


@pytest.mark.parametrize("codec", ["vp8", "av1"])
def test_other_codecs_show_the_same_colours(browser, orders, codec):
    with open_page(browser) as page:
        start(page, orders, query=f"?format=avcc&codec={codec}")
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        red, green, blue = look(page)["mean"]
        # Two thirds at 200 and one at 100, but for the bar; the other channels at 30 and 15.
        assert 130 < red < 195
        assert abs(green - blue) < 8
        assert orders.seen("session.start")[0]["codec"] == codec


def test_a_browser_like_this_one_chooses_webcodecs(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        asked = orders.seen("session.start")[0]
        assert (asked["format"], asked["codec"]) == ("avcc", "h264")


@pytest.mark.parametrize(
    ("removed", "format_used"),
    [(["VideoDecoder"], "m4s"), (["VideoDecoder", "MediaSource", "ManagedMediaSource"], "jpeg")],
)
def test_without_an_interface_the_next_way_is_taken(browser, orders, removed, format_used):
    with open_page(browser) as page:
        for name in removed:
            page.add_init_script(f"delete globalThis.{name};")
        start(page, orders)
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        assert orders.seen("session.start")[0]["format"] == format_used


def test_a_canvas_that_stays_on_the_page_plays_too(browser, orders):
    with open_page(browser) as page:
        page.add_init_script("delete HTMLCanvasElement.prototype.transferControlToOffscreen;")
        start(page, orders)
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        assert_moves(page)


def test_credits_follow_what_was_presented(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        page.wait_for_function("() => document.querySelector('#clock').textContent >= '0:02'")
        frames = [message["frame"] for message in orders.seen("playback.ack")]
    assert frames == sorted(frames)
    steps = [b - a for a, b in pairwise(frames)]
    assert len(frames) >= 8
    assert max(steps) <= 8


def test_examples_come_from_the_server_and_fill_the_box(browser, orders):
    with open_page(browser) as page:
        page.goto(orders.url)
        page.click(f'.chip >> text="{EXAMPLES[1]}"')
        assert page.input_value("#prompt") == EXAMPLES[1]
        assert page.evaluate("document.activeElement.id") == "prompt"


def test_models_that_are_listed_but_not_served_are_not_offered(browser, orders):
    with open_page(browser) as page:
        page.goto(orders.url)
        page.wait_for_selector(".chip")
        assert page.inner_text("#server") == "Model synthetic"
        assert page.locator("#model option").all_text_contents() == ["synthetic"]
        assert page.is_hidden("#model-field")


def test_a_page_opened_before_the_worker_is_ready_finds_its_model_later(browser, orders):
    orders.serving = False
    with open_page(browser) as page:
        page.goto(orders.url)
        page.wait_for_selector('#server >> text="No model is being served yet"')
        orders.serving = True
        page.wait_for_selector('#server >> text="Model synthetic"')
        page.wait_for_selector(".chip")


def test_seed_and_steps_are_sent(browser, orders):
    with open_page(browser) as page:
        page.goto(orders.url)
        page.fill("#seed", "42")
        page.fill("#steps", "3")
        page.fill("#prompt", RED)
        page.click("#go")
        wait_for_state(page, "playing")
        asked = orders.seen("session.start")[0]
        assert (asked["seed"], asked["num_inference_steps"], asked["prompt"]) == (42, 3, RED)
        assert "seed 42" in page.inner_text("#facts")


def test_pause_holds_the_picture_and_play_goes_on(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        page.click("#pause")
        page.wait_for_selector('#pill[data-kind="paused"]')
        assert page.inner_text("#pause") == "Play"
        page.wait_for_timeout(300)
        held = look(page)["print"]
        page.wait_for_timeout(500)
        assert look(page)["print"] == held
        page.click("#pause")
        assert_moves(page)
        assert page.locator("#stat-stalls.warn").count() == 0
        assert orders.seen("session.pause")
        assert orders.seen("session.play")


def test_stop_ends_the_stream_and_another_can_begin(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        page.click("#stop")
        wait_for_state(page, "done")
        assert page.inner_text("#placeholder-line") == "Stopped."
        assert orders.seen("session.stop")
        page.fill("#prompt", "a blue sea")
        page.keyboard.press("Enter")
        wait_for_state(page, "playing")
        wait_for_colour(page, 2)


@pytest.mark.parametrize("way", ["?format=avcc", "?format=m4s"])
def test_a_lost_connection_is_taken_up_again_without_losing_the_stream(browser, orders, way):
    with open_page(browser) as page:
        start(page, orders, query=way)
        wait_for_state(page, "playing")
        page.wait_for_function("() => document.querySelector('#clock').textContent >= '0:01'")
        orders.cut()
        page.wait_for_function("() => document.querySelector('#clock').textContent >= '0:04'")
        resume = orders.seen("session.resume")
        assert len(resume) == 1
        assert resume[0]["after_chunk"] >= 0
        assert len(orders.seen("session.start")) == 1
        assert_moves(page)
        assert page.is_hidden("#notice")


def test_a_prompt_sent_while_the_connection_is_lost_is_sent_again(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        orders.cut()
        page.evaluate("document.querySelector('#go').disabled = false")
        page.fill("#prompt", BLUE)
        page.keyboard.press("Enter")
        page.wait_for_selector('#takes .take.now[data-status="shown"] >> text=blue', timeout=20_000)
        wait_for_colour(page, 2)


def test_a_stream_that_is_gone_is_said_to_be_gone(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        orders.forget_sessions = True
        orders.cut()
        wait_for_state(page, "failed")
        assert page.inner_text("#notice-title") == "The stream is gone."
        assert page.inner_text("#go") == "Start"


def test_a_refusal_is_told_with_the_servers_own_words(browser, orders):
    orders.refuse = {"code": "capacity", "message": "4 of 4 streams are running; try again later"}
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "failed")
        words = page.inner_text("#notice")
        assert "The server is full." in words
        assert "4 of 4 streams are running" in words
        orders.refuse = None
        page.fill("#prompt", RED)
        page.keyboard.press("Enter")
        wait_for_state(page, "playing")
        assert page.is_hidden("#notice")


def test_a_server_with_keys_asks_for_one_and_takes_it(browser, orders):
    orders.api_key = "open sesame"
    with open_page(browser) as page:
        page.goto(orders.url)
        page.wait_for_selector("#key-form", state="visible")
        assert "asks for an API key" in page.inner_text("#notice")
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector(".chip")
        page.fill("#prompt", RED)
        page.keyboard.press("Enter")
        wait_for_state(page, "playing")
        # The browser reports the refused list on its console; that one line is expected.
        assert ["401" in problem for problem in page.problems] == [True]
        page.problems.clear()


def test_waiting_for_room_shows_the_place_in_line(browser, orders):
    orders.queue_position = 3
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "queued")
        assert "number 3 in line" in page.inner_text("#placeholder")
        orders.room.set()
        wait_for_state(page, "playing")


def test_a_slow_generator_is_counted_as_stalls(browser, orders):
    orders.generate_s = 1.1
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        page.wait_for_selector("#stat-stalls.warn", timeout=30_000)
        assert page.locator("#stat-chunk.warn").count() == 1


def break_module(page, name, call):
    """Make a call of a module fail, as a browser's decoder may."""

    def answer(route):
        body = route.fetch().text()
        assert call in body
        body = body.replace(call, call.replace(".", ".missing.", 1))
        route.fulfill(content_type="text/javascript", body=body)

    page.route(f"**/{name}", answer)


def test_a_decoder_that_fails_gives_way_to_the_next(browser, orders):
    with open_page(browser) as page:
        break_module(page, "decoders.js", "decoder.decode(")
        start(page, orders)
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        assert [message["format"] for message in orders.seen("session.resume")] == ["m4s"]


def test_when_the_stream_cannot_change_its_codec_a_new_one_is_started(browser, orders):
    with open_page(browser) as page:
        break_module(page, "decoders.js", "decoder.decode(")
        break_module(page, "mse_player.js", "buffer.appendBuffer(")
        start(page, orders)
        wait_for_state(page, "playing")
        wait_for_colour(page, 0)
        assert orders.seen("session.start")[-1]["format"] == "jpeg"
        assert orders.seen("session.start")[-1]["prompt"] == RED
        assert page.is_hidden("#notice")


def test_a_hidden_tab_says_so_and_comes_back(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { value: true, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        page.wait_for_timeout(300)
        assert orders.seen("playback.ack")[-1].get("hidden") is True
        page.evaluate(
            """() => {
                delete document.hidden;
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        assert_moves(page)
        assert "hidden" not in orders.seen("playback.ack")[-1]


def test_leaving_the_page_frees_the_stream_at_once(browser, orders):
    with open_page(browser) as page:
        start(page, orders)
        wait_for_state(page, "playing")
        page.reload()
        page.wait_for_selector(".chip")
        assert orders.seen("session.stop")


def test_the_page_works_by_keyboard_alone(browser, orders):
    with open_page(browser) as page:
        page.goto(orders.url)
        page.keyboard.press("/")
        page.keyboard.type(RED)
        page.keyboard.press("Enter")
        wait_for_state(page, "playing")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Space")
        page.wait_for_selector('#pill[data-kind="paused"]')
        page.keyboard.press("Space")
        page.wait_for_selector('#pill[data-kind="live"]')


def test_nothing_is_loaded_from_elsewhere(browser, orders):
    with open_page(browser) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        start(page, orders)
        wait_for_state(page, "playing")
        assert all(url.startswith((orders.url, "blob:", "data:")) for url in asked)


def test_a_finished_stream_plays_to_its_last_picture(browser, orders):
    with open_page(browser) as page:
        page.add_init_script(
            """const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (text) {
                const message = JSON.parse(text);
                if (message.type === "session.start") message.num_frames = 21;
                send.call(this, JSON.stringify(message));
            };"""
        )
        start(page, orders)
        wait_for_state(page, "done")
        assert page.inner_text("#placeholder-line") == "That was the whole take."
        # 21 pictures at 16 a second: the last is shown after 1.25 s.
        assert page.inner_text("#clock") == "0:01"
        assert page.locator("#stat-stalls.warn").count() == 0
