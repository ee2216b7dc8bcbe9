"""The picture of the book for links and for the README: its first live picture, photographed.

    python -m tools.social

Writes book/_static/social.png (1200 x 630, the size that links are shown in). Nothing is trained:
the picture is exact, see `meanflow_lite.notebook.live`.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright

from meanflow_lite.notebook.live import live_html
from tools.check_pages import launch

FILE = Path(__file__).resolve().parent.parent / "book" / "_static" / "social.png"
SIZE = {"width": 1200, "height": 630}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The picture</title>
<style>
body {{ margin: 0; padding: 36px 56px; background: #fff; font-family: system-ui, sans-serif; }}
h1 {{ font-size: 52px; margin: 0; }} p.lead {{ font-size: 26px; margin: 2px 0 12px; }}
.mf-knobs, figcaption, .mf-live p.mf-say {{ display: none !important; }}
figure.mf-live {{ max-width: none; }} .mf-live svg text {{ font-size: 19px; }}
</style></head><body><h1>MeanFlow, checked</h1>
<p class="lead">Noise into data in one step, and numbers that say whether it worked.</p>
{figure}</body></html>"""


def main() -> None:
    """Command line."""
    figure = live_html("hero", id="hero", caption="The same noise in three panels.", z=-0.4)
    with sync_playwright() as play:
        browser = launch(play)
        page = browser.new_page(viewport=SIZE)  # pyright: ignore[reportArgumentType]
        page.set_content(PAGE.format(figure=figure))
        page.evaluate("for (const plot of meanflow.shown.hero.all) plot.tall = 400")
        page.evaluate("meanflow.shown.hero.room = 0, meanflow.shown.hero.resize()")
        page.screenshot(path=FILE)
        browser.close()
    print(FILE)


if __name__ == "__main__":
    main()
