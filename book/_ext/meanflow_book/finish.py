"""What a page needs beside its text, such as a head and an error page; what it must not load.

Works on the built HTML, since the theme's templates offer no place for most of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

TITLE = "MeanFlow, checked"
# The theme's icons are a script of 1.5 MB; pages.css draws the dozen that are used.
ICONS = re.compile(r"\s*<(?:script|link)[^>]*fontawesome[^>]*>(?:</script>)?")
NAMES = re.compile(
    r'\.fa-[a-z0-9-]+:{1,2}before(?:,\.fa-[a-z0-9-]+:{1,2}before)*\{content:"[^"]*"\}'
)
VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')
# The theme's second table of contents, for print; search shows it as the first words of a page.
PRINTED = re.compile(r'<div id="jb-print-docs-body".*?(?=<div id="searchbox">)', re.S)
SIDEBAR = '<div id="pst-primary-sidebar" class'
LANDMARK = '<div role="complementary" aria-label="The book" id="pst-primary-sidebar" class'
# The search, which only its own page uses; tabs and kernels, which no page has.
UNUSED = "searchindex|searchtools|language_data|design-tabs"
INDEX = re.compile(rf'\s*<script[^>]*src="[^"]*(?:{UNUSED})\.js[^"]*"></script>')
# MathJax in parts: the one file has menus and speech in it that no page here uses.
WHOLE, PARTS = "mathjax/tex-chtml.js", "mathjax/startup.js"
LOST = """<h1>There is no page here</h1>
<p>The page may have moved when the chapters were divided anew. The
<a href="/index.html">first page</a> lists all of them, and the <a href="/search.html">search</a>
finds words.</p>"""


def description(doctree: nodes.document) -> str:
    """The first paragraph of a page that is a sentence, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text.split()) > 6 and "$" not in text:
            return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " ..."
    return "One-step generation that you can verify, then train."


def head(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """A short title, a description and a social picture."""
    context["docstitle"] = TITLE
    told = escape(description(doctree)) if doctree is not None else TITLE
    title = escape(re.sub(r"<[^>]+>", "", context.get("title", TITLE)))
    base = app.config.html_baseurl or context["pathto"]("index", 1).rsplit("/", 1)[0]
    picture = f"{base.rstrip('/')}/_static/social.png" if base else "_static/social.png"
    tags = {
        "name": {"description": told, "twitter:card": "summary_large_image"},
        "property": {
            "og:title": title, "og:description": told, "og:type": "article",
            "og:site_name": TITLE, "og:image": picture,
        },
    }  # fmt: skip
    lines = [
        f'<meta {kind}="{name}" content="{value}">'
        for kind, members in tags.items()
        for name, value in members.items()
    ]
    kept = re.sub(
        r'<meta (?:name="description"|property="og:)[^>]*>', "", context.get("metatags", "")
    )
    context["metatags"] = kept + "\n".join(lines)


def lost(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page for an address that does not exist."""
    yield "404", {"title": "No such page", "body": LOST}, "page.html"


def polish(html: str) -> str:
    """A built page without what is too heavy, twice there or outside a landmark."""
    html = ICONS.sub("", html).replace(WHOLE, PARTS)
    if 'id="search-results"' not in html:
        html = INDEX.sub("", html)
    first, rest = html.split("</head>", 1)
    views = VIEWPORT.findall(first)
    first = VIEWPORT.sub("", first).replace("</title>", "</title>" + (views or [""])[0], 1)
    return first + "</head>" + PRINTED.sub("", rest).replace(SIDEBAR, LANDMARK, 1)


def polish_all(app: Sphinx, exception: Exception | None) -> None:
    """Every page that was built."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text("utf-8")
            if "</head>" in text and (better := polish(text)) != text:
                path.write_text(better, "utf-8")
        for path in Path(app.outdir).glob("_static/styles/pydata-sphinx-theme.css"):
            path.write_text(NAMES.sub("", path.read_text("utf-8")), "utf-8")


def setup(app: Sphinx) -> None:
    """After the theme has had its say."""
    app.connect("html-page-context", head, priority=950)
    app.connect("html-collect-pages", lost)
    app.connect("build-finished", polish_all)
