"""What a viewer does and sees: types a prompt, watches the pixels, reads the words."""

# The mean colour of the picture and a fingerprint of what moves in it.
LOOK = """() => {
    const picture = document.querySelector(".stage .picture");
    if (!picture) return null;
    const canvas = new OffscreenCanvas(16, 10);
    const context = canvas.getContext("2d");
    try { context.drawImage(picture, 0, 0, 16, 10); } catch { return null; }
    const { data } = context.getImageData(0, 0, 16, 10);
    const sum = [0, 0, 0];
    for (let i = 0; i < data.length; i++) if (i % 4 < 3) sum[i % 4] += data[i];
    return { mean: sum.map((s) => s / 160), print: Array.from(data).join() };
}"""


def begin(page, url, prompt):
    """Open the page and start a stream by keyboard."""
    page.goto(url)
    page.fill("#prompt", prompt)
    page.keyboard.press("Enter")


def wait_for_state(page, state, timeout_s=20):
    page.wait_for_selector(f'#stage[data-state="{state}"]', timeout=timeout_s * 1000)


def wait_for_colour(page, channel):
    """Wait until one of red, green, blue (0, 1, 2) is what the picture has most of."""
    page.wait_for_function(
        f"() => {{ const look = ({LOOK})(); return look && look.mean[{channel}] > 90 &&"
        f" look.mean[{channel}] === Math.max(...look.mean); }}",
        timeout=20_000,
        polling=100,
    )


def assert_moves(page):
    """Wait until the picture is another than it is now."""
    before = look(page)["print"]
    page.wait_for_function(
        f"(before) => {{ const look = ({LOOK})(); return look && look.print !== before; }}",
        arg=before,
        timeout=20_000,
        polling=100,
    )


def look(page):
    """Return the picture's mean colour and fingerprint, once there is a picture."""
    return page.wait_for_function(LOOK, timeout=20_000, polling=100).json_value()


def record_receipts(page):
    """Note every status line that the list of prompts shows from now on."""
    page.evaluate(
        """() => {
            window.receipts = [];
            new MutationObserver(() => {
                const line = document.querySelector("#takes .take .status").textContent;
                if (window.receipts.at(-1) !== line) window.receipts.push(line);
            }).observe(document.querySelector("#takes"),
                { childList: true, subtree: true, characterData: true });
        }"""
    )


def receipts(page):
    """Return the status lines of the newest prompts, in order, since `record_receipts`."""
    return page.evaluate("window.receipts")
