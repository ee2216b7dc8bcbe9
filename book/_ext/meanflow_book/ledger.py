"""The box at the end of a chapter that lists which claims its cells settled, and how.

It is made from the tags of the cells and from the rows of the ledger, so that no chapter has to
interrupt its argument for it, and none can disagree with the ledger.
"""

from __future__ import annotations

from html import escape

import yaml
from docutils import nodes
from sphinx.application import Sphinx

from meanflow_book.chapters import ROOT
from meanflow_lite.notebook.findings import told
from tools.sources import SOURCES, read, tags


def settled(stem: str) -> list[dict[str, str]]:
    """The rows of the ledger that name the chapter ``stem`` and are tagged in it."""
    rows = yaml.safe_load((ROOT / "book" / "claims.yml").read_text("utf-8"))
    tagged = {t.removeprefix("claim-") for c in read(SOURCES / f"{stem}.md") for t in tags(c)}
    return [row for row in rows if row["id"] in tagged and row.get("notebook") == stem]


def box(stem: str) -> str:
    """The folded box as HTML, or "" for a chapter that settles nothing."""
    rows = settled(stem)
    if not rows:
        return ""
    items = "".join(
        f'<li><a href="../claims.html#{row["id"]}"><code>{row["id"]}</code></a> '
        f"<strong>{row['status']}</strong>: &ldquo;{escape(row['claim'])}&rdquo; "
        f"({escape(row['source'])}). {escape(told(row['why']))}</li>"
        for row in rows
    )
    count = f"{len(rows)} claim{'s' * (len(rows) != 1)}"
    return (
        f'<details class="mf-ledger"><summary>Ledger: {count} tested in this chapter</summary>'
        f"<ul>{items}</ul></details>"
    )


def place(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the box of ``page`` in front of its references."""
    stem = page.removeprefix("notebooks/")
    if stem == page or not (SOURCES / f"{stem}.md").exists() or app.builder.format != "html":
        return
    html = box(stem)
    last = [s for s in doctree.findall(nodes.section) if "references" in s.get("ids", [])]
    if html and last:
        last[-1].parent.insert(last[-1].parent.index(last[-1]), nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> None:
    """After the links of the page are made."""
    app.connect("doctree-resolved", place)
