"""Figures of a chapter as SVG in the page, with their captions, instead of pictures of pixels.

A notebook holds each figure twice: as PNG, which everything can show, and as SVG, whose colors are
variables of the style sheet. On the page the SVG is part of the document, so that a figure follows
the theme and its words can be found and read.
"""

from __future__ import annotations

import re

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

from meanflow_lite.notebook.figures import SVG

NUMBER = re.compile(r"Figure (\d+\.\d+)\.")


def drawn(path: str) -> list[str]:
    """The SVG of each PNG of a notebook, in order; "" where there is none."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                text = data.get(SVG, "")
                found.append(text if isinstance(text, str) else "".join(text))
    return found


def caption_of(image: nodes.Element) -> nodes.paragraph | None:
    """The paragraph "Figure 9.3. ..." that follows an image in the output of its cell."""
    cell = image.parent
    while cell is not None and "cell_output" not in cell.get("classes", []):
        cell = cell.parent
    if cell is None:
        return None
    found = (p for p in cell.findall(nodes.paragraph) if NUMBER.match(p.astext()))
    return next(found, None)


def place(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the SVG of ``page`` where its PNG stand, each in a ``<figure>`` with its caption."""
    if not page.startswith("notebooks/") or app.builder.format != "html":
        return
    images = [i for i in doctree.findall(nodes.image) if "jupyter_execute" in i["uri"]]
    pictures = drawn(str(app.env.doc2path(page)))
    if len(images) != len(pictures):
        raise ValueError(
            f"{page}: {len(pictures)} figures in the notebook, {len(images)} on the page"
        )
    for image, picture in zip(images, pictures, strict=True):
        caption = caption_of(image)
        if not picture or caption is None:
            continue
        match = NUMBER.match(caption.astext())
        assert match is not None
        id = f"figure-{match.group(1).replace('.', '-')}"
        caption.parent.remove(caption)
        holder = nodes.container("", classes=["mf-caption"])
        holder += caption
        width = str(image.get("width", "")).removesuffix("px") or "560"
        before = (
            f'<figure class="mf-figure" id="{id}"><div style="max-width: {width}px">{picture}</div>'
        )
        parts = [_raw(before + "<figcaption>"), holder, _raw("</figcaption></figure>")]
        image.parent.replace(image, parts)


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def setup(app: Sphinx) -> None:
    """After MyST has chosen among the forms of an output."""
    app.connect("doctree-resolved", place)
