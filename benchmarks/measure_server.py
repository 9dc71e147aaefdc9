"""Figures of a server on this machine, each beside what the library does without one, in turns.

    .venv/bin/python benchmarks/measure_server.py --model world --play run

Prints a line for each figure and a line of JSON. Rows of the page need Chromium and Playwright.
"""

import argparse
import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from websockets.sync.client import connect

import reelm
from reelm.generation.play_clock import RandomPlayer, play_by_clock
from reelm.serving.client import Client
from reelm.serving.sockets import HEADER

PROMPT = "a red ball rolls to the right over grass"
SCRIPT = "from reelm.cli import script; script()"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextlib.contextmanager
def server(*models: str) -> Iterator[tuple[Client, int]]:
    """Run a server in a process of its own, and give a client of it and the id of the process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SCRIPT, "serve", "--model", *models, "--port", "0", "--out", folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield Client(line[line.index("http://") :].split()[0].rstrip(",")), process.pid
        finally:
            process.terminate()
            process.wait()


def watch(client: Client, identity: str) -> list[float]:
    """Watch a clip, and return when each picture came (time.monotonic)."""
    times = []
    address = client.address.replace("http", "ws", 1)
    with connect(f"{address}/v1/videos/{identity}/stream", max_size=None, compression=None) as socket:
        for message in socket:
            if isinstance(message, bytes):
                assert len(message) > HEADER.size
                times.append(time.monotonic())
            elif json.loads(message)["type"] == "end":
                break
    return times


def against_stream(client: Client, generator: reelm.VideoGenerator, seconds: float, rounds: int) -> dict[str, float]:
    """Return the pictures a second that one viewer sees over those of `generator.stream`."""
    ratios, seen = [], []
    for seed in range(rounds):
        began = time.monotonic()
        pictures = sum(len(frames) for frames in generator.stream(PROMPT, seed=seed, seconds=seconds))
        alone = pictures / (time.monotonic() - began)
        began = time.monotonic()
        job = client.create(PROMPT, seed=seed, seconds=seconds, live=True)
        seen.append(pictures / (watch(client, job["id"])[-1] - began))
        ratios.append(seen[-1] / alone)
    return {"ratio": statistics.median(ratios), "pictures_a_second": statistics.median(seen)}


def against_batch(client: Client, generator: reelm.VideoGenerator, seconds: float, rounds: int) -> dict[str, float]:
    """Return the time of one `generate` of 8 clips over that until 8 viewers have seen all pictures of theirs."""
    ratios = []
    for seed in range(rounds):
        began = time.monotonic()
        generator.generate([PROMPT] * 8, seed=[*range(8 * seed, 8 * seed + 8)], seconds=seconds)
        alone = time.monotonic() - began
        began = time.monotonic()
        ids = [client.create(PROMPT, seed=8 * seed + n, seconds=seconds, live=True)["id"] for n in range(8)]
        with ThreadPoolExecutor(len(ids)) as viewers:
            ends = [times[-1] for times in viewers.map(lambda identity: watch(client, identity), ids)]
        ratios.append(alone / (max(ends) - began))
    return {"ratio": statistics.median(ratios)}


def beside_jobs(client: Client, fps: float, seconds: float) -> dict[str, float]:
    """Return the share of a viewer's pictures that come late while 50 jobs wait."""
    jobs = [client.create(PROMPT, seed=n, seconds=4)["id"] for n in range(50)]
    time.sleep(2)
    times = watch(client, client.create(PROMPT, seed=99, seconds=seconds, live=True)["id"])
    left = client.metric("reelm_jobs_running")
    for identity in jobs:
        client.delete(identity)
    late = sum(now > times[0] + number / fps for number, now in enumerate(times))
    return {"late": late / len(times), "pictures": len(times), "jobs_left": left}


def in_browser(client: Client, play: str | None, seconds: float) -> dict[str, float]:
    """Return the milliseconds until the first picture is on the canvas of a page, and those of keys in a play."""
    from playwright.sync_api import sync_playwright

    found: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        firsts = []
        for seed in range(5):
            page = browser.new_context().new_page()
            page.goto(f"{client.address}/#prompt={PROMPT.replace(' ', '+')}&seed={seed}&seconds=2")
            page.locator("body[data-first-picture]").wait_for()
            firsts.append(float(page.locator("body").get_attribute("data-first-picture") or "nan"))
            page.locator("#gallery video").first.wait_for()
            page.context.close()
        found["first_picture_ms"] = statistics.median(firsts)
        if play is not None:
            found |= _play(browser.new_context().new_page(), client, play, seconds)
        browser.close()
    return found


def _play(page: object, client: Client, play: str, seconds: float) -> dict[str, float]:
    """Return the 95th percentile of key to painted picture on the page, and of `generator.play` alone."""
    generator = reelm.VideoGenerator.from_pretrained(play)
    with generator.play(seed=1) as session:
        figures = play_by_clock(session, RandomPlayer(session.keys, seed=1), lambda picture: None, seconds=seconds)
    assert figures.key_to_picture_ms is not None
    page.goto(client.address)  # type: ignore[attr-defined]
    page.locator("#state", has_text="ready").wait_for()  # type: ignore[attr-defined]
    page.select_option("#model", generator.parts.name)  # type: ignore[attr-defined]
    page.click("#begin")  # type: ignore[attr-defined]
    choose, ends = random.Random(1), time.monotonic() + seconds
    while time.monotonic() < ends:
        key = choose.choice(["ArrowLeft", "ArrowRight", "ArrowUp"])
        page.keyboard.down(key)  # type: ignore[attr-defined]
        page.wait_for_timeout(1000 * choose.expovariate(2.0))  # type: ignore[attr-defined]
        page.keyboard.up(key)  # type: ignore[attr-defined]
        page.wait_for_timeout(1000 * choose.expovariate(2.0))  # type: ignore[attr-defined]
    slow = float(page.locator("#latency").get_attribute("data-slow"))  # type: ignore[attr-defined]
    return {"key_to_painted_ms_p95": slow, "key_to_picture_alone_ms_p95": figures.key_to_picture_ms["p95"]}


def accessibility(client: Client, axe: Path) -> dict[str, float]:
    """Return how many rules of axe-core the page breaks, in light and dark, wide and at phone width."""
    from playwright.sync_api import sync_playwright

    broken: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for scheme in ("light", "dark"):
            for width in (1100, 390):
                page = browser.new_context(
                    bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 900}
                ).new_page()  # fmt: skip
                page.goto(client.address)
                page.locator("#state", has_text="ready").wait_for()
                page.locator("#gallery video").first.wait_for()
                page.locator("details:has(#seed)").evaluate("details => { details.open = true; }")
                page.add_script_tag(path=axe)
                broken |= {rule["id"] for rule in page.evaluate("axe.run()")["violations"]}
                page.context.close()
        browser.close()
    return {"broken_rules": len(broken)}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="world")
    parser.add_argument("--play", help="a model that is played")
    parser.add_argument("--axe", type=Path, help="axe.min.js of the npm package axe-core")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = reelm.VideoGenerator.from_pretrained(options.model)
    generator.generate(PROMPT, seconds=1)
    report: dict[str, object] = {"threads": torch.get_num_threads()}
    with server(options.model, *([options.play] if options.play else [])) as (client, _):
        watch(client, client.create(PROMPT, seconds=1, live=True)["id"])  # warm
        report["one_viewer"] = against_stream(client, generator, options.seconds, options.rounds)
        report["eight_viewers"] = against_batch(client, generator, options.seconds, options.rounds)
        report["beside_50_jobs"] = beside_jobs(client, generator.fps, 20)
        if Path(shutil.which("chromium") or "").name:
            report["page"] = in_browser(client, options.play, 60)
            if options.axe is not None:
                report["accessibility"] = accessibility(client, options.axe)
    for name, figures in report.items():
        print(name, figures)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
