"""Outputs that make sense beside a kernel only, and formulas that stay with their punctuation.

A page has no place to type: the sentence "Not done yet" of an exercise is left away, and the line
under a figure with controls becomes a link to the notebook where they work.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

OPEN = "[ ] Not done yet"
CONTROLS = re.compile(r"Run this cell in Jupyter or Colab to choose (.*)\.")
AFTER = re.compile(r"^[,.;:!?)\]]+")


def quiet(doctree: nodes.document) -> None:
    """Take away what `check` says to an answer that nobody could give."""
    for block in list(doctree.findall(nodes.literal_block)):
        if block.astext().startswith(OPEN):
            block.parent.remove(block)


def notebook_of(app: Sphinx, page: str) -> str:
    """Where the notebook of a page can be had: in Colab if there is an address, else as a file."""
    options = app.config.html_theme_options
    if address := options.get("repository_url", ""):
        place = address.removeprefix("https://github.com/")
        branch = options.get("repository_branch", "main")
        return f"https://colab.research.google.com/github/{place}/blob/{branch}/{page}.ipynb"
    return f"../_sources/{page}.ipynb"


def controls(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Say where the controls of a still figure work, with a link."""
    for block in list(doctree.findall(nodes.literal_block)):
        found = CONTROLS.fullmatch(block.astext().strip())
        if not found:
            continue
        said = nodes.paragraph("", "", classes=["mf-needs-kernel"])
        said += nodes.Text(f"In Jupyter and in Colab this figure has controls ({found.group(1)}): ")
        address = notebook_of(app, page)
        said += nodes.reference("", "open the notebook", refuri=address, internal=False)
        said += nodes.Text(".")
        block.parent.replace(block, said)


def keep_together(doctree: nodes.document) -> None:
    """A formula in a line and the mark after it stand on one line: no line begins with a comma."""
    for formula in list(doctree.findall(nodes.math)):
        parent, at = formula.parent, formula.parent.index(formula)
        after = parent[at + 1] if at + 1 < len(parent) else None
        mark = AFTER.match(after.astext()) if isinstance(after, nodes.Text) else None
        if mark is None:
            continue
        assert isinstance(after, nodes.Text)
        parent[at + 1] = nodes.Text(after.astext()[mark.end() :])
        held = nodes.inline("", "", classes=["mf-keep"])
        parent[at] = held
        held += [formula, nodes.Text(mark.group())]


def place(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """On the pages that a browser shows."""
    if app.builder.format == "html":
        quiet(doctree)
        controls(app, doctree, page)
        keep_together(doctree)


def setup(app: Sphinx) -> None:
    """After MyST has chosen among the forms of an output."""
    app.connect("doctree-resolved", place)
