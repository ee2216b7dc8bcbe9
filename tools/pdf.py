"""The book as one PDF: every page of the table of contents, printed by Chromium and joined.

    python -m tools.pdf [--out book/_build/meanflow-checked.pdf]

Run `make book` first. Links between pages lead to addresses beside the PDF, not into it; the
outline of the PDF lists the chapters.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import yaml
from playwright.sync_api import Browser, sync_playwright
from pypdf import PdfReader, PdfWriter

from tools.check_pages import HTML, ROOT, find_browser, launch, serve

OUT = ROOT / "book" / "_build" / "meanflow-checked.pdf"
PAPER = {"format": "A4", "margin": {k: "16mm" for k in ("top", "bottom", "left", "right")}}


def pages(toc: Path = ROOT / "book" / "_toc.yml") -> list[str]:
    """Names of the pages, in the order of the table of contents."""

    def below(entry: dict) -> list[str]:
        return [entry["file"], *(n for s in entry.get("sections", []) for n in below(s))]

    table = yaml.safe_load(toc.read_text("utf-8"))
    return [table["root"], *(n for p in table["parts"] for c in p["chapters"] for n in below(c))]


def printed(browser: Browser, address: str) -> bytes:
    """One page as PDF, after its formulas are set."""
    page = browser.new_page(viewport={"width": 794, "height": 1123}, color_scheme="light")
    page.add_init_script("localStorage.setItem('mode', 'light')")
    page.goto(address, wait_until="load")
    page.wait_for_function(
        "() => !document.querySelector('.math') || document.querySelector('mjx-container')"
    )
    page.wait_for_timeout(150)
    found = page.pdf(print_background=True, **PAPER)  # type: ignore[arg-type]
    page.close()
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="The book as one PDF.")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    names = [n for n in pages() if (HTML / f"{n}.html").exists()]
    if find_browser() is None or not names:
        print("no PDF: it takes Chromium and the pages that `make book` builds")
        return 1
    server, base = serve(HTML)
    writer = PdfWriter()
    with sync_playwright() as play:
        browser = launch(play)
        for name in names:
            reader = PdfReader(io.BytesIO(printed(browser, f"{base}/{name}.html")))
            first = len(writer.pages)
            writer.append(reader, import_outline=False)
            title = (reader.metadata or {}).get("/Title") or name
            writer.add_outline_item(str(title).split(" \u2014 ")[0], first)  # pyright: ignore
        browser.close()
    server.shutdown()
    writer.add_metadata({"/Title": "MeanFlow, checked"})
    out.parent.mkdir(parents=True, exist_ok=True)
    writer.write(out)
    print(f"{out}: {len(writer.pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
