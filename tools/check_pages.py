"""Opens every built page in headless Chromium and reports what a reader would trip over.

    python -m tools.check_pages [--pages 'notebooks/0*']

Wide and narrow screen, light and dark: no error in the console, no request that leaves the machine,
no sideways scrolling, every formula rendered, every image described, every slider and live picture
answering to mouse, finger and keys, copy buttons that copy, what `check_looks` looks for, nothing
that axe calls moderate or worse, pages that are light to load, and a search that finds what it
should. Screenshots go to book/_build/screenshots.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import http.server
import importlib.resources
import os
import re
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, Playwright, Response, sync_playwright

from tools.check_live import check_live
from tools.check_looks import check_cuts, check_figures, check_print

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "book" / "_build" / "html"
SHOTS = ROOT / "book" / "_build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
# The theme that a page is opened in, and the one it is switched to.
THEMES = {"desktop": ("light", "dark"), "phone": ("dark", "light")}
TALLEST = 5000  # pixels of a screenshot; the rest of a long page is checked but not drawn
HEAVIEST = 1_500_000  # bytes of scripts, styles and fonts that a page may load
LIVE = 10  # kinds of live pictures that the book has at least
KIND = r'meanflow\.mount\("[^"]+", "([a-z]+)"'
SKIPPED = ("py-modindex", "search")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
# What a reader may search for, and a page that has to be among the results.
SEARCHES = {
    "stop-gradient": "glossary",
    "Jacobian": "notebooks/08_jvp",
    "kappa": "notation",
    "quantile": "notebooks/05_average_velocity",
    "dual number": "notebooks/08_jvp",
    "total derivative": "notebooks/06_identity",
    "Wasserstein": "notebooks/24_proved",
    "adaptive weight": "notebooks/11_loss_of_one",
    "data_proportion": "conventions",
    "NaN": "troubleshooting",
    "solve_average": "api/fields",
    "loss is 1": "troubleshooting",
    "r = t": "notebooks/12_settings",
    "install": "full_scale",
}
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
# Contrast is judged once for each look of a text: same color, size, weight and ground. Axe would
# spend minutes on a page of ten thousand words that all look the same.
LOOKS = r"""() => {
  const ground = e => {
    const out = [];
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      out.push(style.opacity);
      if (style.backgroundColor !== "rgba(0, 0, 0, 0)") return out.join() + style.backgroundColor;
    }
    return out.join();
  };
  const seen = new Map();
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const box = e.getBoundingClientRect();
    if (!own || !box.width || !box.height) continue;
    const s = getComputedStyle(e);
    const look = [s.color, s.fontSize, s.fontWeight, s.display === "none", ground(e)].join("|");
    if (!seen.has(look)) seen.set(look, e);
  }
  return axe.run({include: [...seen.values()]}, {runOnly: ["color-contrast"], preload: false});
}"""
STRUCTURE = """() => axe.run(document, {resultTypes: ["violations"], preload: false,
  rules: {"color-contrast": {enabled: false}}})"""


def find_browser() -> str | None:
    """Path of a Chromium or Chrome, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def launch(play: Playwright) -> Browser:
    """The browser that `find_browser` found."""
    return play.chromium.launch(executable_path=find_browser(), args=ARGS)


def serve(folder: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    """The pages below ``folder`` on a free local port, and their address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Files; and no complaint about the icon that browsers ask for by themselves."""
            if self.path == "/favicon.ico":
                self.send_response(204)
                self.end_headers()
                return
            with contextlib.suppress(ConnectionError):  # the browser went to another page
                super().do_GET()

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


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


def check_copying(page: Page) -> list[str]:
    """The first copy button of a page puts its code on the clipboard."""
    button = page.locator("pre:visible + button.copybtn").first
    if not button.count():
        return []
    code = button.locator("xpath=preceding-sibling::pre").first.inner_text().strip()
    first, got = code.splitlines()[0].strip(), ""
    button.scroll_into_view_if_needed()
    for _ in range(5):  # two browsers at once share one clipboard
        page.evaluate("navigator.clipboard.writeText('')")
        button.click(force=True)
        page.wait_for_timeout(50)
        got = page.evaluate("navigator.clipboard.readText()").strip()
        if got.startswith(first):
            break
    return [] if got.startswith(first) else [f"the copy button gives {got[:40]!r}, not {first!r}"]


def told(result: dict) -> list[str]:
    """Sentences for what axe calls moderate or worse."""
    found = []
    for violation in result["violations"]:
        if violation["impact"] in ("moderate", "serious", "critical"):
            nodes = violation["nodes"]
            where = f"{len(nodes)} times, first {nodes[0]['html'][:120]!r}"
            found.append(f"accessibility, {violation['id']}: {where}")
    return found


def check_access(page: Page, first: str, second: str) -> list[str]:
    """Axe on the page: structure once, contrast in both themes; leaves the page without formulas.

    MathJax builds thousands of elements with accessible text of its own; axe takes minutes on them.
    """
    source = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    page.evaluate("document.querySelectorAll('mjx-container').forEach(e => e.remove())")
    page.evaluate(source.read_text("utf-8"))
    found = told(page.evaluate(STRUCTURE))
    for theme in (second, first):
        switch(page, theme)
        found += [f"{p} ({theme})" for p in told(page.evaluate(LOOKS))]
    return found


def switch(page: Page, theme: str) -> None:
    """What the button of the theme does."""
    page.evaluate(
        "theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})", theme
    )


def looks(page: Page) -> list[str]:
    """What is wrong with how the page stands."""
    seen = page.evaluate(INSPECT)
    problems = [f"formula not rendered: {text!r}" for text in seen["raw"]]
    problems += [f"formula with an error: {text!r}" for text in seen["broken"]]
    problems += ["no formula is rendered"] * bool(seen["waiting"])
    problems += [f"image without alt text: {src}" for src in seen["mute"]]
    problems += [f"image does not load: {src}" for src in seen["missing"]]
    if seen["scroll"] > 1:
        problems.append(f"scrolls sideways by {seen['scroll']} px: {seen['wide']}")
    return problems


def shoot(page: Page, file: Path, width: int) -> None:
    """A screenshot of the top of the page."""
    height = page.evaluate("document.documentElement.scrollHeight")
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(
        path=file,
        full_page=True,
        clip={"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)},
        animations="disabled",
    )


def check_page(browser: Browser, base: str, name: str, size: str, shots: Path) -> list[str]:
    """Everything that is wrong with one page on one screen, in both themes."""
    width, height = SIZES[size]
    first, second = THEMES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if first == "dark" else "light",
        reduced_motion="reduce",  # colors are judged at rest, not on the way to another theme
        permissions=["clipboard-read", "clipboard-write"],
        has_touch=size == "phone",
    )
    context.add_init_script(
        f"localStorage.setItem('mode', '{first}'); localStorage.setItem('theme', '{first}');"
    )
    page = context.new_page()
    problems: list[str] = []
    page.on(
        "console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None
    )
    page.on("pageerror", lambda e: problems.append(f"script: {e}"))
    loaded: dict[str, int] = {}
    page.on("response", lambda r: loaded.update({r.url: weight(r)}))
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
        timeout=60_000,
    )
    page.wait_for_timeout(250)
    problems += looks(page) + check_cuts(page) + too_heavy(loaded)
    for theme in (first, second):
        switch(page, theme)
        shoot(page, shots / f"{name.replace('/', '_')}-{size}-{theme}.png", width)
        problems += [f"{p} ({theme})" for p in check_figures(page, theme == "dark")]
    problems += check_sliders(page)
    if size == "phone":
        problems += check_live(page)
    else:
        problems += check_print(page)
    problems += check_copying(page)
    problems += check_access(page, first, second)
    context.close()
    return [f"{name} ({size}): {p}" for p in problems]


def weight(response: Response) -> int:
    """Bytes of what a page needs beside its own text and figures: scripts, styles, fonts."""
    if response.request.resource_type not in ("script", "stylesheet", "font"):
        return 0
    return int(response.headers.get("content-length", 0))


def too_heavy(loaded: dict[str, int]) -> list[str]:
    """What makes a page slow to open."""
    total = sum(loaded.values())
    largest = sorted(loaded, key=loaded.__getitem__, reverse=True)[:3]
    names = ", ".join(f"{url.rsplit('/', 1)[-1]} {loaded[url] / 1e6:.2f}" for url in largest)
    heavy = f"loads {total / 1e6:.2f} MB of scripts, styles and fonts: {names}"
    return [heavy] if total > HEAVIEST else []


def count_live(names: list[str]) -> list[str]:
    """The book has enough pictures that live."""
    kinds = set()
    for name in names:
        kinds |= set(re.findall(KIND, (HTML / f"{name}.html").read_text("utf-8")))
    few = f"the book has {len(kinds)} kinds of live pictures, fewer than {LIVE}: {sorted(kinds)}"
    return [few] if len(kinds) < LIVE else []


def check_search(
    browser: Browser, base: str, searches: dict[str, str], patience: float = 20_000
) -> list[str]:
    """Each term leads to its page, by the book's own search, within ``patience`` milliseconds."""
    problems = []
    page = browser.new_page()
    for term, wanted in searches.items():
        page.goto(f"{base}/search.html?q={term.replace(' ', '+')}", wait_until="load")
        try:
            page.wait_for_selector(f"#search-results a[href*='{wanted}']", timeout=patience)
        except Error:
            count = page.locator("#search-results li").count()
            problems.append(f"search for {term!r} finds {count} pages, not {wanted}")
    page.close()
    return problems


_browser: Browser  # one a process


def _start() -> None:
    global _browser
    _browser = launch(sync_playwright().start())


def _check(base: str, name: str) -> list[str]:
    try:
        return [p for size in SIZES for p in check_page(_browser, base, name, size, SHOTS)]
    except Error as error:
        return [f"{name}: could not be checked: {error}"]


def _search(base: str) -> list[str]:
    return check_search(_browser, base, SEARCHES)


def main() -> int:
    """Command line; 0 where there is no browser, unless CI=true asks for one."""
    parser = argparse.ArgumentParser(description="Built pages in headless Chromium.")
    parser.add_argument("--pages", default="*", help="shell pattern of page names")
    pattern = parser.parse_args().pages
    if find_browser() is None:
        print(f"pages not checked: none of {', '.join(BROWSERS)} is installed")
        return int(os.environ.get("CI", "").lower() == "true")
    # the largest first, so that no process is left alone with one at the end
    files = sorted(HTML.rglob("*.html"), key=lambda p: p.stat().st_size, reverse=True)
    names = [str(p.relative_to(HTML).with_suffix("")) for p in files]
    names = [n for n in names if n not in SKIPPED and not n.startswith("_")]
    names = [n for n in names if fnmatch.fnmatch(n, pattern)]
    if not names:
        print(f"no page of {HTML} matches {pattern!r}; run `make book` first")
        return 1
    server, base = serve(HTML)
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), initializer=_start) as pool:
        waiting = [pool.submit(_check, base, name) for name in names]
        waiting += [pool.submit(_search, base)] * (pattern == "*")
        problems = [p for done in waiting for p in done.result()]
    problems += count_live(names) if pattern == "*" else []
    server.shutdown()
    print("\n".join(problems) or f"{len(names)} pages, two screens, two themes: nothing to report")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
