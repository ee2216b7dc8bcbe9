"""What a reader sees of a page and an accessibility checker does not judge; used by `check_pages`.

Code that is cut, formulas that are cut without a sign, words in figures that cannot be read, white
boxes in the dark, tab stops where nothing scrolls, a line that begins with a comma, and characters
that paper would lose.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

PAPER = {"width": 718, "height": 1000}  # A4 without its margins, in CSS pixels
READABLE = 4.5  # the least contrast of a word

SCRIPT = (Path(__file__).parent / "check_looks.js").read_text("utf-8")


def few(found: list[str], shown: int = 3) -> list[str]:
    """The first of many findings, and how many there are."""
    more = [f"... and {len(found) - shown} more like these"] if len(found) > shown else []
    return found[:shown] + more


def ask(page: Page, call: str) -> list[str]:
    """What a function of `check_looks.js` finds on the page."""
    page.evaluate(SCRIPT)
    return page.evaluate(f"looks.{call}")


def check_cuts(page: Page) -> list[str]:
    """Code, formulas, tab stops and the first character of a line."""
    return few(ask(page, "cut()"))


def check_figures(page: Page, dark: bool) -> list[str]:
    """Words in figures can be read; in the dark no figure stands on white."""
    found = ask(page, f"figures({READABLE})")
    return few(found + (ask(page, "white()") if dark else []))


def check_print(page: Page) -> list[str]:
    """On paper no character is lost at the edge of a box or of the sheet."""
    size = page.viewport_size
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)  # type: ignore[arg-type]
    page.wait_for_timeout(60)
    found = ask(page, "lost()")
    page.emulate_media(media="screen")
    if size:
        page.set_viewport_size(size)
        page.wait_for_timeout(60)
    return few(found)
