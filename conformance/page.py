"""Drives the server's page in a real browser and checks what a user would see.

    eunoe serve -m smollm2-135m --port 8000 &
    python3 conformance/page.py --url http://127.0.0.1:8000 [--screenshots DIR]

Needs `pip install playwright` and a Chromium: the system's (`apt-get install chromium`), `--browser PATH`, or
that of `playwright install chromium`.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import sys
import urllib.request

from playwright.sync_api import TimeoutError, expect, sync_playwright

PLAN = "a2sf @ 25%"
# Reading some thousand tokens on a slow machine.
PATIENCE_MS = 240_000
TRIES = 4
SHIPS = ["Heron", "Marigold", "Old Tom", "Saint Brendan", "Swallow", "Three Sisters"]
LOG = "\n".join(
    f"Day {day}: the {SHIPS[day % 6]} came in with {10 + day * 37 % 83} crates of lemons and left with the tide."
    for day in range(1, 61)
)


class Watch:
    """Console errors and requests of a page."""

    def __init__(self, page, url):
        self.errors, self.foreign = [], []
        page.on("console", lambda message: self.hear(message))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith(url) or self.foreign.append(request.url))

    def hear(self, message):
        # The browser itself reports every answer of HTTP >= 400, such as the refusal that is asked for here.
        refused = "Failed to load resource" in message.text and "/v1/chat/completions" in message.location["url"]
        if message.type in ("error", "warning") and not refused:
            self.errors.append(f"{message.text} ({message.location['url']})")


def set_plan(page, plan):
    page.locator("#plan-text").fill(plan)


def ask(page, question, enter=True):
    page.locator("#question").fill(question)
    if enter:
        page.locator("#question").press("Enter")


def wait_until_done(page):
    expect(page.locator("#send")).to_be_visible(timeout=PATIENCE_MS)


def answer_streams(page):
    set_plan(page, PLAN)
    page.locator("#chooser").set_input_files(
        {"name": "log.txt", "mimeType": "text/plain", "buffer": LOG.encode()}
    )
    expect(page.locator("#files li")).to_have_count(1)
    page.evaluate("""() => {
        window.lengths = new Set();
        new MutationObserver(() => {
            const body = document.querySelector('article.assistant .body');
            if (body && !document.getElementById('stop').hidden) window.lengths.add(body.textContent.length);
        }).observe(document.getElementById('turns'), { childList: true, subtree: true, characterData: true });
    }""")
    ask(page, "Which ship came in on day 30, and with what?")
    expect(page.locator("#stop")).to_be_visible()
    wait_until_done(page)
    assert page.evaluate("window.lengths.size") > 3, "the answer came at once, not in pieces"
    assert page.locator("article.assistant .body").inner_text().strip(), "the answer is empty"
    assert page.locator("#announcer p").count() > 1, "nothing was said aloud"


def map_is_whole(page, model):
    cells = page.locator("#map i")
    assert cells.count() == model["layers"] * model["kv_heads"], f"{cells.count()} cells"
    assert page.locator("#map i[class^=q]").count() == cells.count(), "cells without a colour"
    assert "layer" in page.locator("#map").get_attribute("aria-label"), "the map has no summary"
    columns = page.locator("#map").evaluate("map => getComputedStyle(map).gridTemplateColumns.split(' ').length")
    assert columns == model["layers"], f"{columns} columns"


def forgotten_text_is_faded(page):
    said = page.locator("article.user .body")
    assert said.inner_text().startswith("Day 1:"), "the text was not put before the question"
    assert "Which ship" in said.inner_text(), "the question is gone"
    shares = said.locator("[data-kept]").evaluate_all("spans => spans.map(span => Number(span.dataset.kept))")
    assert any(share < 1 for share in shares), "nothing is faded"
    faint = said.locator("[data-kept]").first
    assert faint.evaluate("s => getComputedStyle(s).color !== getComputedStyle(s.parentNode).color"), "no fading seen"
    page.locator("#faded").uncheck()
    assert faint.evaluate("s => getComputedStyle(s).color === getComputedStyle(s.parentNode).color"), "still faded"
    page.locator("#faded").check()


def audit_is_told(page):
    page.locator("#audited").check()
    ask(page, "And on day 31?")
    wait_until_done(page)
    expect(page.locator("#findings .verdict")).to_be_visible()
    for words in ["nats a token", "Same likeliest token", "95 %", "planted"]:
        assert words in page.locator("#findings").inner_text(), f"the audit does not say `{words}`"
    page.locator("#audited").uncheck()


def stop_works(page, url, by):
    page.locator("summary", has_text="Answer").evaluate("summary => summary.parentNode.open = true")
    page.locator("#most").fill("900")
    for _ in range(TRIES):  # a small model may have ended by itself before it was stopped
        before = page.locator("article.assistant").count()
        ask(page, "Tell a very long story about every one of these ships, day by day.")
        newest = page.locator("article.assistant").nth(before)
        expect(newest.locator(".body")).not_to_be_empty(timeout=PATIENCE_MS)
        with contextlib.suppress(TimeoutError):
            by(page)
        expect(page.locator("#send")).to_be_visible(timeout=10_000)
        if newest.locator(".foot").inner_text() == "Stopped.":
            break
    expect(newest.locator(".foot")).to_have_text("Stopped.")
    page.wait_for_timeout(500)
    memory = get(url, "/eunoe/memory")
    assert memory["running"] == 0, f"still running: {memory}"
    page.locator("#most").fill("64")


def error_is_shown(page):
    articles = page.locator("article").count()
    set_plan(page, "no_such_policy @ 25%")
    ask(page, "Is there such a policy?")
    expect(page.locator(".error")).to_contain_text("no_such_policy", timeout=PATIENCE_MS)
    expect(page.locator("#question")).to_have_value("Is there such a policy?")
    assert page.locator("article").count() == articles, "a question without an answer stayed"
    set_plan(page, PLAN)


def controls_write_the_plan(page):
    plan = page.locator("#plan-text")
    set_plan(page, "snapkv | ada @ 25%")
    page.locator("#unit").select_option("tok")
    expect(plan).to_have_value("snapkv | ada @ 512tok")
    page.locator("#amount").fill("100")
    page.locator("#amount").press("Tab")
    expect(plan).to_have_value("snapkv | ada @ 100tok")
    page.locator("#unit").select_option("")
    expect(plan).to_have_value("snapkv | ada")
    expect(page.locator("#amount")).to_be_disabled()
    set_plan(page, PLAN)
    expect(page.locator("#unit")).to_have_value("%")
    expect(page.locator("#estimate")).to_contain_text("may take")


def keyboard_reaches_everything(page):
    assert page.evaluate("document.activeElement.id") == "question", "one cannot type at once"
    first = page.locator("a, button, input, select, textarea, summary").first
    assert first.get_attribute("class") == "skip", "no skip link first"
    first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "question", "the skip link leads nowhere"
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator("#question")).to_have_value("one\ntwo")
    assert page.locator("article").count() == 0, "Shift + Enter sent"
    page.locator("#question").fill("")


def nothing_overflows(page):
    for width in [380, 390, 700, 1024, 1440]:
        page.set_viewport_size({"width": width, "height": 800})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide at {width} px"
    page.set_viewport_size({"width": 1440, "height": 1000})


def screenshots(page, folder):
    folder.mkdir(parents=True, exist_ok=True)
    page.locator("article").last.evaluate("newest => newest.scrollIntoView({ block: 'end' })")
    for scheme in ["dark", "light"]:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(400)
        page.screenshot(path=folder / f"page-{scheme}.png")
    page.set_viewport_size({"width": 390, "height": 844})
    # The composer sticks to the end of the window: the whole page needs a window as long.
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": 390, "height": height})
    page.screenshot(path=folder / "page-narrow.png")
    page.set_viewport_size({"width": 1440, "height": 1000})


def get(url, path):
    with urllib.request.urlopen(url + path) as response:
        return json.load(response)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--screenshots", type=pathlib.Path)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    url = args.url.rstrip("/")
    model = get(url, "/eunoe/plans")["model"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        watch = Watch(page, url)
        page.goto(url)
        expect(page.locator("#model")).to_contain_text(model["name"])
        expect(page.locator("#empty")).to_be_visible()
        steps = [
            (keyboard_reaches_everything, ()),
            (controls_write_the_plan, ()),
            (answer_streams, ()),
            (map_is_whole, (model,)),
            (forgotten_text_is_faded, ()),
            (audit_is_told, ()),
            (nothing_overflows, ()),
        ]
        steps += [(screenshots, (args.screenshots,))] if args.screenshots else []
        steps += [
            (stop_works, (url, lambda page: page.keyboard.press("Escape"))),
            (stop_works, (url, lambda page: page.locator("#stop").click(timeout=2_000))),
            (error_is_shown, ()),
        ]
        for step, more in steps:
            step(page, *more)
            print(f"ok  {step.__name__}")
        assert not watch.errors, f"console: {watch.errors}"
        assert not watch.foreign, f"requests that left the origin: {watch.foreign}"
        browser.close()
    print("the page holds")


if __name__ == "__main__":
    sys.exit(main())
