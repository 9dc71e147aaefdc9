"""The page in a headless Chromium; without it, and without Playwright, these tests skip."""

import itertools
import re
import shutil
import socket
import threading
import time

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the serve extra is not installed")
make_app = pytest.importorskip("reelm.serving.app").make_app

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SECOND = 1000  # milliseconds


class Server:
    """The application at a port of this machine, which can be stopped and started again."""

    def __init__(self, jobs):
        self.jobs, self.port = jobs, 0

    def start(self):
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        app = make_app(self.jobs, hosts=("127.0.0.1",))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.port}/"

    def stop(self):
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def server(make_jobs):
    server = Server(make_jobs())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; in the end nothing may have gone wrong in it, and nothing outside may have been asked."""
    wrong, pages = [], []

    def begin(**options):
        page = browser.new_context(**options).new_page()
        pages.append(page)
        page.on("console", lambda message: message.type == "error" and "status of 400" not in message.text
                and wrong.append(message.text))  # fmt: skip
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: "127.0.0.1" in request.url or request.url.startswith(("data:", "blob:"))
                or wrong.append(request.url))  # fmt: skip
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.locator("#state", has_text="ready").wait_for()
        return page

    yield begin
    for page in pages:
        page.context.close()
    assert wrong == []


def make(page, prompt="a red ball", **settings):
    page.fill("#prompt", prompt)
    page.locator("details:has(#seed)").evaluate("details => { details.open = true; }")
    for name, value in {"seconds": 1, "seed": 7, "guidance": 1, **settings}.items():
        if isinstance(value, bool):
            page.set_checked(f"#{name}", value)
        elif page.locator(f"#{name}").is_enabled():
            page.fill(f"#{name}", str(value))
    page.keyboard.press("Enter") if page.locator("#prompt:focus").count() else page.click("#go")


def picture(page, selector="#stage canvas >> nth=0"):
    read = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].join()"
    return page.locator(selector).evaluate(read)


def test_a_prompt_becomes_moving_pictures_and_a_clip_to_continue(open_page, debug_generator):
    page = open_page()
    make(page, tokens=True)
    page.locator("#gallery video").wait_for()
    page.locator("#stage input[type=range]:visible").wait_for()
    wanted = debug_generator.generate("a red ball", seed=7, seconds=1, guidance_scale=1.0).frames
    last = ",".join(map(str, [*wanted[-1].reshape(-1, 3)[0].tolist(), 255]))
    deadline = time.monotonic() + 10  # the last pictures are shown at their times
    while not (shown := picture(page)).startswith(f"{last},") and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert shown.startswith(f"{last},")
    scrubber = page.locator("#stage input[type=range]")
    scrubber.evaluate("input => { input.value = 0; input.dispatchEvent(new Event('input')); }")
    assert [int(value) for value in picture(page).split(",")[:3]] == wanted[0].reshape(-1, 3)[0].tolist()
    assert "passes" in page.inner_text("#stage figcaption")
    assert len(set(picture(page, "#stage canvas >> nth=1").split(","))) > 4, "the tokens of the last latent frame"
    page.get_by_role("button", name="Continue", exact=True).click()
    page.locator("#gallery li:nth-child(2) video").wait_for()
    page.get_by_role("button", name="Delete").first.click()
    page.locator("#gallery li:nth-child(2)").wait_for(state="detached")


def test_a_clip_without_an_end_follows_its_prompt_and_two_settings_are_compared(open_page):
    page = open_page()
    make(page, endless=True)
    page.locator("#stage figcaption", has_text=re.compile(r"picture (9|\d\d+),")).wait_for()
    page.fill("#prompt", "a blue ring")
    page.click("#turn")
    page.locator("#stage figcaption", has_text=re.compile(r"picture (2[1-9]|[3-9]\d),")).wait_for()
    page.click("#stop")
    page.locator("#gallery video").wait_for()
    make(page, endless=False, compare=True, temperature2=0.5)
    page.locator("#gallery li:nth-child(3) video").wait_for()
    assert page.locator("#stage figure").count() == 2


def test_a_link_makes_the_same_clip_again(open_page, server):
    page = open_page()
    page.goto(f"http://127.0.0.1:{server.port}/#prompt=a+red+ball&seed=7&seconds=1&guidance=1")
    page.reload()
    page.locator("#gallery video").wait_for()
    assert "seed 7" in page.inner_text("#gallery li")


def test_a_world_is_played_with_keys_which_are_let_go_when_the_page_is_left(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.select_option("#model", "played")
    page.locator("#play").wait_for()
    page.click("#begin")
    page.locator("#latency", has_text="pictures a second").wait_for()
    page.keyboard.down("Space")
    page.locator("#latency", has_text="key to picture").wait_for()
    pad = page.locator("#pads button", has_text="jump")
    pad.dispatch_event("pointerdown")
    page.evaluate("() => dispatchEvent(new Event('blur'))")
    page.keyboard.up("Space")
    page.click("#leave")
    page.locator("#begin:enabled").wait_for()
    page.locator("#gallery li", has_text="played").locator("video").wait_for()
    page.click("#gallery >> text=the same again")  # without a prompt, by its seed and its keys
    page.locator("#gallery li:nth-child(2) video").wait_for()
    assert page.locator("html").evaluate("html => html.scrollWidth") <= 390


def test_a_viewer_comes_back_when_the_server_does(browser, server, debug_generator):
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.locator("#state", has_text="ready").wait_for()
    asked = []
    page.route(
        "**/v1/videos?limit=*", lambda route: asked.append(1) or (route.continue_ if asked[1:] else route.abort)()
    )
    make(page, seconds=4)
    page.locator("#stage figcaption", has_text=re.compile(r"picture ([5-9]|\d\d+),")).wait_for()
    server.stop()
    server.start()
    page.locator("#gallery video").wait_for(timeout=60 * SECOND)  # though its list was not to be had at first
    page.locator("#stage input[type=range]:visible").wait_for()
    wanted = debug_generator.generate("a red ball", seed=7, seconds=4, guidance_scale=1.0).frames
    assert f"picture {len(wanted)}, {len(wanted)} drawn" in page.inner_text("#stage figcaption")
    shown = np.array(picture(page).split(","), int).reshape(*wanted.shape[1:3], 4)[..., :3]
    assert np.array_equal(shown, wanted[-1])
    page.context.close()


def test_what_is_refused_is_told(open_page, server):
    page = open_page()
    server.jobs.limits = type(server.jobs.limits)(seconds=0.5)
    page.fill("#prompt", "a red ball")
    with page.expect_response("**/v1/videos"):
        page.click("#go")
    page.get_by_role("alert").wait_for()
    assert "seconds: must be at most 0.5" in page.inner_text("#error")


def test_pictures_that_come_before_the_first_one_is_shown_are_all_shown(open_page):
    page = open_page()
    shown = page.locator("#stage").evaluate("""async (stage) => {
        const { Viewer } = await import("/page/viewer.js");
        const viewer = new Viewer(stage, { title: "", tokens: false, onEnd: () => {}, onError: () => {} });
        const shown = [];
        viewer.draw = (number) => { shown.push(number); viewer.shown = number; };
        viewer.clip = { temporal: 4, first: 1, given_frames: 0, order: [], given: 0, fps: 100 };
        for (const number of [5, 6, 7, 8]) viewer.take({ number });
        viewer.over = true;
        while (viewer.scrubber.hidden) {
            viewer.tick();
            await new Promise(requestAnimationFrame);
        }
        return [...shown, viewer.scrubber.min];
    }""")
    assert shown == [5, 6, 7, 8, "5"]


def test_a_break_is_made_good_from_the_latent_frame_of_the_picture_that_is_missing(open_page):
    found = open_page().evaluate("""async () => {
        const { Viewer } = await import("/page/viewer.js");
        const latents = (first) => [0, 1, 3, 4, 5, 8].map((picture) =>
            Viewer.prototype.latentOf.call({ clip: { first, temporal: 4 } }, picture));
        return [latents(1), latents(4)];
    }""")
    assert found == [[0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2]]


def test_a_burst_of_pictures_is_spread_by_their_times(open_page):
    page = open_page()
    shown = page.locator("#pads").evaluate("""async (pads) => {
        const { Play } = await import("/page/play.js");
        const play = new Play({ canvas: null, latency: null, pads, keys: [], onEnd: () => {}, onError: () => {} });
        const shown = [];
        play.show = ({ number }) => shown.push([number, performance.now()]);
        const numbers = [0, 1, 2];
        for (const number of numbers) play.arrive({ number, second: number / 5 });
        await new Promise((done) => setTimeout(done, 600));
        for (let number = 3; number < 9; number += 1) play.arrive({ number, second: number / 5 });
        await new Promise((done) => setTimeout(done, 600));
        return shown;
    }""")
    numbers, times = zip(*shown, strict=True)
    assert numbers == (0, 1, 2, 3, 8), "what came after a break is the newest one"
    assert all(later - before >= 150 for before, later in itertools.pairwise(times[:3]))
