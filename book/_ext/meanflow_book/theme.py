"""What Sphinx and the theme do not do: buttons that lead somewhere, numbers in aligned formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx


def launch_buttons(app: Sphinx, config: Any) -> None:
    """Buttons that open a page in Colab, only when there is an address to open.

    Jupyter Book would hand the address to the theme, had `_config.yml` no theme options of its own.
    """
    book = Path(app.confdir) / "_config.yml"
    setting = yaml.safe_load(book.read_text("utf-8"))["repository"] if book.exists() else {}
    if setting.get("url"):
        config.html_theme_options |= {
            "repository_url": setting["url"],
            "repository_branch": setting["branch"],
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
            "use_repository_button": True,
        }


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], *rest: Any) -> None:
    """Jupyter Book loads Thebe's settings into each page, twice; this book needs no kernel."""
    files = context.get("script_files", [])
    files[:] = [
        f
        for f in files
        if "sphinx-thebe" not in str(getattr(f, "filename", ""))
        and "THEBE" not in str(getattr(f, "attributes", {}).get("body", ""))
    ]


def keep_numbers(app: Sphinx, doctree: nodes.document) -> None:
    r"""Sphinx puts a formula of several lines into ``split``, which has no room for ``\tag``."""
    for formula in doctree.findall(nodes.math_block):
        text = formula.astext()
        if r"\\" in text and r"\tag" in text:
            formula["nowrap"] = True
            formula[:] = [nodes.Text(rf"\[{text}\]")]


def list_of_entries(
    app: Sphinx, page: str, template: str, context: dict[str, Any], *rest: Any
) -> None:
    """Citations are a list to docutils, but their entries are no list items."""
    if body := context.get("body"):
        context["body"] = body.replace('role="list" class="citation-list"', 'class="citation-list"')


def setup(app: Sphinx) -> None:
    """Register them."""
    app.connect("doctree-read", keep_numbers)
    app.connect("html-page-context", list_of_entries)
    app.connect("config-inited", launch_buttons, priority=1)
    app.connect("html-page-context", drop_thebe, priority=900)
