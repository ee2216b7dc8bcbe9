"""The check of the pages finds a planted fault of each kind, and nothing on a sound page."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from PIL import Image

pytest.importorskip("playwright.sync_api")
pytest.importorskip("axe_playwright_python")

from playwright.sync_api import sync_playwright  # noqa: E402

from meanflow_lite.notebook.live import PICTURES, live_html  # noqa: E402
from tools import check_pages as tool  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
needs_browser = pytest.mark.skipif(tool.find_browser() is None, reason="no browser is installed")


def white_square() -> bytes:
    """A picture of twenty white pixels each way."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "white").save(buffer, format="PNG")
    return buffer.getvalue()


PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
OTHER = "data:image/gif;base64,R0lGODlhAQABAIAAAP///////yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
SLIDER = f"""<div class="mf-slider" id="s"><img src="{PIXEL}" alt="a picture that moves">
<input type="range" min="0" max="1" value="0" aria-label="t"
 oninput="this.parentElement.querySelector('img').src = this.value > 0 ? '{OTHER}' : '{PIXEL}'">
</div>"""
COPY = """<div class="highlight"><pre>a = 1</pre><button class="copybtn" aria-label="Copy"
onclick="navigator.clipboard.writeText(this.previousElementSibling.innerText)">c</button></div>"""
DRAWING = """<figure><svg role="img" aria-label="a drawing with a word" width="200" height="40">
<text fill="currentColor" y="20">word</text></svg></figure>"""
SOUND = f"""<!DOCTYPE html><html lang="en"><head><title>Sound</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ background: #fff; color: #111; }}
html[data-theme="dark"] body {{ background: #111; color: #eee; }}
pre {{ overflow: auto; }} @media print {{ pre {{ white-space: pre-wrap; }} }}</style></head>
<body><main><article><h1>Sound</h1><p>A sentence.</p>{DRAWING}
<img src="{PIXEL}" alt="one gray pixel">{SLIDER}{COPY}</article></main></body></html>"""

WHITE = "data:image/png;base64," + base64.b64encode(white_square()).decode()
LIVE = live_html("weight", id="w", caption="An error and the number that is printed.")
FORMULA = (
    "<div class='math{mark}' style='{scroll}'><mjx-container display='true'>"
    "<mjx-math style='display: block; width: {width}px'>z</mjx-math></mjx-container></div>"
)
FAULTS = [
    ("alt text", 'alt="one gray pixel"', 'alt="x"', "image without alt text"),
    (
        "an image that is not there",
        f'<img src="{PIXEL}" alt="one',
        '<img src="no.png" alt="one',
        "does not load",
    ),
    ("console", "A sentence.", "<script>console.error('planted')</script>", "console: planted"),
    ("a script that fails", "A sentence.", "<script>planted()</script>", "script: planted"),
    (
        "the network",
        "A sentence.",
        "<img src='http://127.0.0.1:9/x.png' alt='of no one here'>",
        "asks the network",
    ),
    ("sideways", "A sentence.", "<div style='width: 3000px'>wide</div>", "scrolls sideways"),
    ("a formula left as text", "A sentence.", "\\[ a^2 \\]", "formula not rendered"),
    (
        "a formula with an error",
        "A sentence.",
        "<mjx-merror>Undefined</mjx-merror>",
        "with an error",
    ),
    ("a slider that is dead", "oninput", "data-off", "does not answer the keyboard"),
    ("a slider that is dead to the mouse", "oninput", "data-off", "does not answer the mouse"),
    (
        "a copy button",
        "writeText(this.previousElementSibling.innerText)",
        "writeText('b')",
        "copy button gives",
    ),
    ("a control without a name", ' aria-label="t"', "", "accessibility, label"),
    (
        "contrast",
        "A sentence.",
        "<b style='color: #bbb; background: #fff'>pale</b>",
        "color-contrast",
    ),
    ("contrast in the dark", "color: #eee", "color: #333", "color-contrast"),
    ("no language", ' lang="en"', "", "accessibility, html-has-lang"),
    ("text outside a landmark", "<main>", "<p>Outside.</p><main>", "accessibility, region"),
    (
        "code that is cut",
        "a = 1",
        "a = " + "1 + " * 400 + "1",
        "code is cut",
    ),
    (
        "a formula that is cut",
        "A sentence.",
        FORMULA.format(width=3000, scroll="overflow: hidden", mark=""),
        "a formula is cut without a sign",
    ),
    (
        "a tab stop for nothing",
        "A sentence.",
        "<span tabindex='0'>A stop.</span>",
        "a tab stop where nothing scrolls",
    ),
    (
        "a comma at the start of a line",
        "A sentence.",
        "<mjx-container>z</mjx-container><br>, and so on",
        "begins with punctuation",
    ),
    ("a pale word in a figure", "currentColor", "#aaa", "a word in a figure has contrast"),
    ("a word that the dark swallows", "currentColor", "#333", "a word in a figure has contrast"),
    (
        "a white box in the dark",
        "<figure>",
        "<figure style='background: #fff'>",
        "a white box in the dark",
    ),
    (
        "a white picture in the dark",
        "A sentence.",
        f"<img src='{WHITE}' alt='one white square here' width='9'>",
        "a picture with a white ground",
    ),
    (
        "a table that paper cuts",
        "A sentence.",
        "<div class='cell_output' style='overflow: auto'>"
        "<div style='width: 800px'>wide</div></div>",
        "paper would cut",
    ),
    (
        "code that paper cuts",
        "a = 1",
        "<b style='white-space: pre'>" + "1 + " * 400 + "1</b>",
        "paper would cut code",
    ),
]


@pytest.fixture(scope="module")
def browser():
    if tool.find_browser() is None:
        pytest.skip("no browser is installed")
    with sync_playwright() as play:
        found = tool.launch(play)
        yield found
        found.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    server, base = tool.serve(folder)
    yield folder, base
    server.shutdown()


def problems(browser, site, html: str, size: str = "desktop") -> list[str]:
    folder, base = site
    (folder / "page.html").write_text(html, "utf-8")
    return tool.check_page(browser, base, "page", size, folder)


@needs_browser
@pytest.mark.parametrize("size", tool.SIZES)
def test_a_sound_page_has_nothing_to_report(browser, site, size):
    assert problems(browser, site, SOUND, size) == []
    folder, _ = site
    assert {p.name for p in folder.glob(f"page-{size}-*.png")} == {
        f"page-{size}-light.png",
        f"page-{size}-dark.png",
    }


@needs_browser
@pytest.mark.parametrize(
    ("old", "new", "says"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_planted_fault_is_found(browser, site, old, new, says):
    assert old in SOUND
    found = problems(browser, site, SOUND.replace(old, new))
    assert any(says in p for p in found), found


@needs_browser
def test_live_pictures_of_a_page_are_tried_with_a_finger(browser, site):
    page = SOUND.replace("A sentence.", LIVE)
    assert problems(browser, site, page, "phone") == []
    dead = page.replace('addEventListener("keydown"', 'addEventListener("off"')
    assert any("does not answer the keyboard" in p for p in problems(browser, site, dead, "phone"))


@needs_browser
def test_a_formula_that_scrolls_and_says_so_is_fine(browser, site):
    wide = FORMULA.format(width=3000, scroll="overflow: auto' tabindex='0", mark=" mf-scroll")
    assert problems(browser, site, SOUND.replace("<p>A sentence.</p>", wide), "phone") == []


def test_a_page_that_loads_too_much_is_told():
    assert tool.too_heavy({"a/small.js": 10_000}) == []
    assert "big.js 2.00" in tool.too_heavy({"a/big.js": 2_000_000, "b.css": 5})[0]


def test_a_book_without_live_pictures_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "HTML", tmp_path)
    (tmp_path / "page.html").write_text(LIVE * 12, "utf-8")
    assert "1 kinds of live pictures" in tool.count_live(["page"])[0]
    many = "".join(
        live_html(kind, id=kind, caption="All the kinds that there are.") for kind in PICTURES
    )
    (tmp_path / "page.html").write_text(many, "utf-8")
    assert tool.count_live(["page"]) == []


@needs_browser
def test_contrast_is_told_for_the_theme_that_lacks_it(browser, site):
    found = problems(browser, site, SOUND.replace("color: #eee", "color: #333"))
    assert found and all(p.endswith("(dark)") for p in found), found


@needs_browser
def test_a_search_that_finds_nothing_is_told(browser, site):
    folder, base = site
    script = (
        "if (location.search.includes('known')) document.write('<a href=\"glossary.html\">x</a>')"
    )
    page = f"<div id='search-results'><script>{script}</script></div>"
    (folder / "search.html").write_text(page, "utf-8")
    assert tool.check_search(browser, base, {"known word": "glossary"}) == []
    found = tool.check_search(browser, base, {"absent": "glossary"}, patience=300)
    assert found == ["search for 'absent' finds 0 pages, not glossary"]


def test_ten_terms_or_more_are_searched_for():
    assert len(tool.SEARCHES) >= 10
    for page in tool.SEARCHES.values():
        assert any((ROOT / "book").glob(f"{page}*")), page


# Launch buttons


ADDRESS = "https://github.com/someone/somewhere"


def build_with_an_address(folder: Path) -> Path:
    """The book with an address set, in ``folder``; notebooks without outputs, to be quick."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["repository"]["url"] = ADDRESS
    (folder / "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    (folder / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        nbformat.write(book, folder / "notebooks" / path.name)
    skip = shutil.ignore_patterns("_build", "notebooks", "_config.yml", "_ext", "__pycache__")
    shutil.copytree(ROOT / "book", folder / "book", ignore=skip)
    (folder / "book" / "_ext").symlink_to(ROOT / "book" / "_ext")
    (folder / "book" / "_config.yml").symlink_to("../_config.yml")
    (folder / "book" / "notebooks").symlink_to("../notebooks")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-q", "book/"]
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder / "book" / "_build" / "html"


def tracked() -> set[str]:
    """Regular files that git tracks: no symbolic link, which GitHub would show as one line."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    return {name for mode, _, _, name in lines if mode.startswith("100")}


def addresses(html: str) -> dict[str, set[str]]:
    """Places in the repository that a page's buttons lead to, for Colab and for GitHub."""
    place = ADDRESS.removeprefix("https://github.com/")
    colab = rf"https://colab\.research\.google\.com/github/{place}/blob/main/([^\"?#]+)"
    return {
        "colab": set(re.findall(colab, html)),
        "github": set(re.findall(rf"{ADDRESS}/(?:blob|edit|raw)/main/([^\"?#]+)", html)),
    }


@pytest.mark.slow
def test_every_launch_address_is_a_tracked_file(tmp_path):
    html = build_with_an_address(tmp_path)
    files = tracked()
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    listed = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    chapters = [name for name in listed if name.startswith("notebooks/")]
    assert chapters
    for name in chapters:
        found = addresses((html / f"{name}.html").read_text("utf-8"))
        assert found["colab"] == {f"{name}.ipynb"}, name
        assert found["colab"] | found["github"] <= files
    for page in html.rglob("*.html"):
        found = addresses(page.read_text("utf-8"))
        assert found["colab"] | found["github"] <= files, page.name


def test_an_address_through_a_link_would_be_found():
    page = (
        '<a href="https://colab.research.google.com/github/someone/somewhere/blob/main/x/y.ipynb">'
    )
    assert addresses(page)["colab"] == {"x/y.ipynb"}
    assert "book/_config.yml" not in tracked() and "_config.yml" in tracked()
