"""What the theme does not do: buttons only where they lead somewhere, no unused scripts."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def launch_buttons(app: Sphinx, config: Any) -> None:
    """Buttons that open a page in Colab, only when there is an address to open."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        options["use_repository_button"] = True
    else:
        options.pop("launch_buttons", None)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], *rest: Any) -> None:
    """Jupyter Book loads Thebe's settings into each page, twice; this book needs no kernel."""
    files = context.get("script_files", [])
    files[:] = [
        f
        for f in files
        if "sphinx-thebe" not in str(getattr(f, "filename", ""))
        and "THEBE" not in str(getattr(f, "attributes", {}).get("body", ""))
    ]


def setup(app: Sphinx) -> None:
    """Register both."""
    app.connect("config-inited", launch_buttons, priority=1)
    app.connect("html-page-context", drop_thebe, priority=900)
