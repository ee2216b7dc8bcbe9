"""Opens every built page in headless Chromium and reports what a reader would trip over.

    python -m tools.check_pages [--pages 'notebooks/0*']

Wide and narrow screen, light and dark: no error in the console, no request that leaves the machine,
no sideways scrolling, every formula rendered, every image described, every slider moving its
picture by mouse and by keyboard. Screenshots go to book/_build/screenshots.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "book" / "_build" / "html"
SHOTS = ROOT / "book" / "_build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
TALLEST = 5000  # pixels of a screenshot; the rest of a long page is checked but not drawn
SKIPPED = ("genindex", "py-modindex", "search")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
# What one page looks like once it stands still; runs in the page.
INSPECT = r"""() => {
  const raw = [];
  const walk = document.createTreeWalker(document.querySelector("article") || document.body,
                                         NodeFilter.SHOW_TEXT);
  const code = "pre, code, script, style, mjx-container, .mf-slider noscript, textarea";
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent;
    if (walk.currentNode.parentElement.closest(code)) continue;
    if (/\$\$|\\\(|\\\[|\\tag\{|\\begin\{/.test(text)) raw.push(text.trim().slice(0, 60));
  }
  const images = [...document.querySelectorAll("article img")];
  const wide = [...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 2)
    .map(e => e.tagName + "." + e.className).slice(0, 3);
  return {
    raw,
    broken: [...document.querySelectorAll("mjx-merror")].map(e => e.textContent.slice(0, 60)),
    waiting: document.querySelectorAll(".math").length > 0
      && document.querySelectorAll("mjx-container").length === 0,
    mute: images.filter(i => !i.alt || i.alt.split(" ").length < 3).map(i => i.src.slice(-40)),
    missing: images.filter(i => i.complete && i.naturalWidth === 0).map(i => i.src.slice(-40)),
    height: document.documentElement.scrollHeight,
    scroll: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wide,
  };
}"""


def find_browser() -> str | None:
    """Path of a Chromium or Chrome, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def serve() -> http.server.ThreadingHTTPServer:
    """The built pages on a free local port."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Files; and no complaint about the icon that browsers ask for by themselves."""
            if self.path == "/favicon.ico":
                self.send_response(204)
                self.end_headers()
                return
            super().do_GET()

    handler = functools.partial(Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def check_sliders(page: Page) -> list[str]:
    """Each slider changes its picture, by keyboard and by mouse."""
    problems = []
    for slider in page.locator(".mf-slider").all():
        name, picture = slider.get_attribute("id"), slider.locator("img")
        for control in slider.locator("input[type=range]").all():
            first, last = control.get_attribute("min"), control.get_attribute("max")
            box = control.bounding_box()
            if box is None:
                problems.append(f"slider {name} is not visible")
                continue
            control.focus()
            page.keyboard.press("Home" if control.input_value() != first else "End")
            before = picture.get_attribute("src")
            page.keyboard.press("End" if control.input_value() != last else "Home")
            if picture.get_attribute("src") == before:
                problems.append(f"slider {name} does not answer the keyboard")
            control.scroll_into_view_if_needed()
            before = picture.get_attribute("src")
            goal = 0.02 if control.input_value() == last else 0.98
            control.click(position={"x": box["width"] * goal, "y": box["height"] / 2})
            if picture.get_attribute("src") == before:
                problems.append(f"slider {name} does not answer the mouse")
    return problems


def check_page(browser: Browser, base: str, name: str, size: str, theme: str) -> list[str]:
    """Everything that is wrong with one page on one screen."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
    )
    context.add_init_script(
        f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');"
    )
    page = context.new_page()
    problems: list[str] = []
    page.on(
        "console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None
    )
    page.on("pageerror", lambda e: problems.append(f"script: {e}"))
    local = (base, "data:", "blob:", "about:")
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith(local) else problems.append(f"asks the network: {r.url}")
        ),
    )
    page.goto(f"{base}/{name}.html", wait_until="load")
    page.wait_for_function(
        "() => !document.querySelector('.math') || document.querySelector('mjx-container')",
        timeout=20_000,
    )
    page.wait_for_timeout(250)
    seen = page.evaluate(INSPECT)
    problems += [f"formula not rendered: {text!r}" for text in seen["raw"]]
    problems += [f"formula with an error: {text!r}" for text in seen["broken"]]
    problems += ["no formula is rendered"] * bool(seen["waiting"])
    problems += [f"image without alt text: {src}" for src in seen["mute"]]
    problems += [f"image does not load: {src}" for src in seen["missing"]]
    if seen["scroll"] > 1:
        problems.append(f"scrolls sideways by {seen['scroll']} px: {seen['wide']}")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(
        path=SHOTS / f"{name.replace('/', '_')}-{size}-{theme}.png",
        full_page=True,
        clip={"x": 0, "y": 0, "width": width, "height": min(seen["height"], TALLEST)},
        animations="disabled",
    )
    if theme == "light":
        problems += check_sliders(page)
    context.close()
    return [f"{name} ({size}, {theme}): {p}" for p in problems]


def main() -> int:
    """Command line; 0 where there is no browser, unless CI=true asks for one."""
    parser = argparse.ArgumentParser(description="Built pages in headless Chromium.")
    parser.add_argument("--pages", default="*", help="shell pattern of page names")
    pattern = parser.parse_args().pages
    browser_path = find_browser()
    if browser_path is None:
        print(f"pages not checked: none of {', '.join(BROWSERS)} is installed")
        return int(os.environ.get("CI", "").lower() == "true")
    names = sorted(str(p.relative_to(HTML).with_suffix("")) for p in HTML.rglob("*.html"))
    names = [n for n in names if n not in SKIPPED and not n.startswith("_")]
    names = [n for n in names if fnmatch.fnmatch(n, pattern)]
    if not names:
        print(f"no page of {HTML} matches {pattern!r}; run `make book` first")
        return 1
    server = serve()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    problems: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=ARGS)
        for name in names:
            for size in SIZES:
                for theme in ("light", "dark"):
                    problems += check_page(browser, base, name, size, theme)
        browser.close()
    server.shutdown()
    print("\n".join(problems) or f"{len(names)} pages, two screens, two themes: nothing to report")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
