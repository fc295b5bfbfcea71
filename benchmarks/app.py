"""How quick the web app is: `python benchmarks/app.py [--quick]`; the last line is a JSON object.

Everything is done in a real Chromium to a real server, and timed by the clock of the page itself; medians.

- `page_s`: a session opens, from going there to its heading, with nothing in the browser's cache;
- `sight_s`, `caption_s`: a photo is chosen, until it is shown, and until its caption is, `caption_times_plain` over
  `Captioner.caption` of the same photo in this process;
- `hover_ms`: the pointer comes onto a word it has not been on, until the frame after the one whose heat map changed;
- `visitors_s`: several visitors bring a photo each at the same moment, until all have their captions;
  `visitors_times_plain` over captioning these photos in this process; how many captions were `wrong`, or `errors`.

Besides, the server's memory after some photos and after ten times as many more, all different, brought by one visitor
(`one_session`) or by as many (`new_sessions`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, too, it finds the tests' browser

from captioner.pipeline import Captioner
from tests.app import browsing
from tests.app.browsing import megabytes, opened, running, settle, upload

SIDE = 1000  # pixels of a photo's longer side
# Times are taken as a frame begins, for what is seen is seen in frames.
CLOCK = """
(() => {
  const frame = () => new Promise(requestAnimationFrame);
  const find = (selector, root = document) => root.querySelector(selector)
    ?? [...root.querySelectorAll("*")].map((node) => node.shadowRoot && find(selector, node.shadowRoot)).find(Boolean);
  const until = async (test) => {
    while (!test()) await frame();
    return performance.now();
  };
  const pixels = () => {
    const canvas = find(".stage canvas");
    return new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  };
  window.heading = until(() => find("h1"));
  window.expectPhoto = (name) => {
    window.photo = (async () => {
      const chosen = new Promise((done) => {
        addEventListener("change", () => done(performance.now()), {capture: true, once: true});
      });
      const sight = until(() => find(`img[alt="${name}"], .stage[data-photo="${name}"] img`)?.naturalWidth);
      const caption = until(() => find(`.stage[data-photo="${name}"] img`));
      return {sight: await sight - await chosen, caption: await caption - await chosen};
    })();
  };
  window.expectHeat = () => {
    const before = pixels();
    window.heat = new Promise((done) => {
      find("[role=toolbar]").addEventListener("pointerenter", async (event) => {
        do await frame(); while (pixels().every((value, i) => value === before[i]));
        await frame();
        done(performance.now() - event.timeStamp);
      }, {capture: true, once: true});
    });
  };
})();
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Speed and memory of the web app.")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    options = parser.parse_args(arguments)
    found: dict[str, object] = {}
    try:
        with tempfile.TemporaryDirectory() as folder, browsing.browsing() as browser:
            for figures in measure(browser, options.quick, Path(folder)):
                print(", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
                found |= figures
    except RuntimeError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found))
    return 0


def measure(browser: Browser, quick: bool, folder: Path) -> Iterator[dict[str, object]]:
    """All figures, as they come."""
    captioner = Captioner.load()
    with running() as (url, _):
        yield opening(browser, url, 2 if quick else 5)
        yield from one_visitor(
            browser, url, browsing.made_up_photos(folder, range(4 if quick else 11), SIDE), captioner
        )
        yield visitors(browser, url, browsing.made_up_photos(folder, range(20, 24 if quick else 40), SIDE), captioner)
    few, many = (2, 4) if quick else (20, 220)
    photos = browsing.made_up_photos(folder, range(100, 100 + many), SIDE)
    yield {"one_session": memory(browser, photos, few, new_sessions=False)}
    yield {"new_sessions": memory(browser, photos, few, new_sessions=True)}


def opening(browser: Browser, url: str, times: int) -> dict[str, object]:
    seconds = []
    for _ in range(times):
        with browser.new_context(viewport=browsing.DESK) as window:
            window.add_init_script(CLOCK)
            page = window.new_page()
            page.goto(url)
            seconds.append(page.evaluate("window.heading") / 1e3)
    return {"page_s": round(statistics.median(seconds), 2)}


def one_visitor(
    browser: Browser, url: str, photos: Sequence[Path], captioner: Captioner
) -> Iterator[dict[str, object]]:
    """Times of photos that come one after the other; the first, which may wait for the model, does not count."""
    photo_times, heats = [], []
    with opened(browser, url) as page:
        page.evaluate(CLOCK)
        for photo in photos:
            page.evaluate("window.expectPhoto", photo.name)
            upload(page, photo)
            photo_times.append(page.evaluate("window.photo"))
            settle(page)
            heats += hover(page)
    plain = seconds_plain(captioner, photos)
    caption = statistics.median(times["caption"] for times in photo_times[1:]) / 1e3
    yield {
        "sight_s": round(statistics.median(times["sight"] for times in photo_times[1:]) / 1e3, 3),
        "caption_s": round(caption, 3),
        "caption_times_plain": round(caption / statistics.median(plain[1:]), 2),
    }
    yield {"hover_ms": round(statistics.median(heats), 1), "hover_most_ms": round(max(heats), 1), "hovers": len(heats)}


def hover(page: Page) -> list[float]:
    """Milliseconds from the pointer's coming onto each word to its heat map."""
    found = []
    for word in browsing.words(page).all():
        box = word.bounding_box()
        assert box is not None
        page.evaluate("window.expectHeat()")
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        found.append(page.evaluate("window.heat"))
    page.mouse.move(5, 5)
    return found


def visitors(browser: Browser, url: str, photos: Sequence[Path], captioner: Captioner) -> dict[str, object]:
    with browsing.tabs(browser, url, len(photos)) as pages:
        start = time.perf_counter()
        found = browsing.caption_all(pages, photos)
        seconds = time.perf_counter() - start
    expected = [captioner.caption(photo).text for photo in photos]
    return {
        "visitors": len(photos),
        "visitors_s": round(seconds, 2),
        "visitors_times_plain": round(seconds / sum(seconds_plain(captioner, photos)), 2),
        "wrong": sum(a not in (b, "") for a, b in zip(found, expected, strict=True)),
        "errors": found.count(""),
    }


def seconds_plain(captioner: Captioner, photos: Sequence[Path]) -> list[float]:
    """How long each photo takes without server and browser."""
    seconds = []
    for photo in photos:
        start = time.perf_counter()
        captioner.caption(photo)
        seconds.append(time.perf_counter() - start)
    return seconds


def memory(browser: Browser, photos: Sequence[Path], few: int, new_sessions: bool) -> dict[str, int]:
    """Megabytes of a new server, after a few photos and after all."""
    found: dict[str, int] = {}
    with running() as (url, process), opened(browser, url) as page:
        for number, photo in enumerate(photos, 1):
            if new_sessions:
                browsing.visit(page, url)
            upload(page, photo)
            browsing.captioned(page, photo.name)
            if number in (few, len(photos)):
                settle(page)
                found |= {f"after_{number}": megabytes(process, "VmRSS"), f"most_{number}": megabytes(process, "VmHWM")}
    return found


if __name__ == "__main__":
    sys.exit(main())
