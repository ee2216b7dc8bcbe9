"""Figures with a number, a caption and a description, as pixels for notebooks and SVG for pages.

A notebook shows the PNG on white, since GitHub, Colab and Jupyter agree on nothing else. The book
shows the SVG that travels with it, whose colors are variables of the page's style sheet: the same
picture on a light and on a dark ground, text included.
"""

from __future__ import annotations

import io
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
from IPython.core.getipython import get_ipython
from IPython.display import Markdown, display
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from meanflow_lite.notebook.style import COLORS, GRID, GROUND, INK, conditions

SVG = "application/vnd.meanflow-lite.svg"  # what only the book reads
MANY = 400  # points of a scatter plot beyond which pixels are smaller than paths
_BLACK, _LONGEST_ALT = "#000000", 60


class Numbers:
    """Numbers of the figures of one chapter, in order of first appearance."""

    def __init__(self, chapter: str = "") -> None:
        self.chapter, self.seen = chapter, {}

    def of(self, key: object) -> str:
        """The number of the figure known by ``key``: the same one when its cell runs again."""
        n = self.seen.setdefault(key, len(self.seen) + 1)
        return f"{int(self.chapter)}.{n}" if self.chapter else f"{n}"


_numbers = Numbers()


def setup(seed: int = 0, chapter: str = "") -> None:
    """Conditions of every chapter: figure style, seed, threads; its figures count from one."""
    global _numbers
    conditions(seed)
    _numbers = Numbers(chapter)


def number() -> str:
    """The number of the figure that the running cell shows, such as "9.3"."""
    parent = getattr(get_ipython(), "get_parent", dict)()  # the request that runs the cell
    cell = parent.get("metadata", {}).get("cellId") or parent.get("content", {}).get("code")
    return _numbers.of(cell or object())


def numbered(caption: str, name: str = "") -> str:
    """The caption with its number in front, as Markdown: "**Figure 9.3.** What is seen."."""
    return f"**Figure {name or number()}.** {' '.join(caption.split())}"


def show(fig: Figure, alt: str, caption: str = "") -> None:
    """Display ``fig`` with its number and caption; ``alt`` describes it to those who do not see it.

    Caption and alt text are compared by the tests, so numbers inside them are tested. The caption
    says what the figure shows and what to look at; the alt text is shorter and says what is drawn.
    Without a caption the alt text is one, and its first sentence describes the figure.
    Raises ValueError for an alt text of fewer than four words or longer than the caption, and for
    text in a color that cannot be read on both grounds.
    """
    alt = " ".join(alt.split())
    if len(alt.split()) < 4:
        raise ValueError(f"alt={alt!r}: describe what the figure shows, in at least four words")
    if not caption:
        caption, alt = alt, re.split(r"(?<=[a-z)\d]{2}[.:])\s", alt)[0]
    elif len(alt) > len(caption):
        raise ValueError(f"alt={alt!r} is longer than the caption: leave the explaining to that")
    name = number()
    readable(fig)
    width = round(fig.get_figwidth() * 100)
    bundle = {SVG: svg(fig, alt, f"f{name.replace('.', '-')}"), "text/plain": alt}
    bundle["image/png"] = png(fig, dpi=150)  # type: ignore[assignment]  # bytes, which IPython encodes
    display(bundle, metadata={"image/png": {"width": width, "alt": alt}}, raw=True)
    display(Markdown(numbered(caption, name)))


def readable(fig: Figure) -> None:
    """Darken text in the color of a role to the ink of that role; refuse any other color."""
    inks = {to_hex(COLORS[role]): ink for role, ink in INK.items()}
    allowed = {to_hex(c) for c in (*INK.values(), GROUND, _BLACK)}
    for text in fig.findobj(Text):
        if not isinstance(text, Text) or not text.get_text().strip():
            continue
        color = to_hex(text.get_color())
        if color in inks:
            text.set_color(inks[color])
        elif color not in allowed:
            raise ValueError(
                f"the text {text.get_text()!r} is drawn in {color}, which cannot be read on a "
                "light and on a dark page: use nb.INK[role], or leave it black"
            )


def png(fig: Figure, *, dpi: int = 160) -> bytes:
    """The figure as PNG, without the metadata that would make two builds differ; closes it."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(fig)
    return buffer.getvalue()


def svg(fig: Figure, alt: str, prefix: str) -> str:
    """The figure as one ``<svg>`` element whose colors follow the page; ids begin with ``prefix``.

    Clouds of many points and maps are pixels inside it.
    """
    for artist in fig.findobj(lambda a: isinstance(a, PathCollection | QuadMesh)):
        many = isinstance(artist, QuadMesh) or len(artist.get_offsets()) > MANY  # type: ignore[attr-defined]
        artist.set_rasterized(many)
    buffer = io.StringIO()
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "meanflow", "svg.image_inline": True}
    ):
        fig.savefig(
            buffer,
            format="svg",
            dpi=200,
            transparent=True,
            metadata={"Date": None, "Creator": None},
        )
    return _for_pages(buffer.getvalue(), alt, prefix)


def _for_pages(text: str, alt: str, prefix: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    used = set(re.findall(r"""(?:url\(|href=")#([^")]+)""", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    for id in used:
        text = re.sub(rf'(id="|#){re.escape(id)}(?=["\)])', rf"\g<1>{prefix}-{id}", text)
    for color, variable in _variables().items():
        text = re.sub(rf"(fill|stroke): {color}\b", rf"\1: {variable}", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"(-?\d+\.\d\d)\d+", r"\1", text)
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    described = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box.group()} role="img" aria-label="{described}" fill="currentColor" '
        'font-family="sans-serif" stroke-linejoin="round" stroke-linecap="butt">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _variables() -> dict[str, str]:
    """Hexadecimal colors of figures, to the variables of the page that replace them."""
    marks = {to_hex(c): f"var(--mf-{role}, {to_hex(c)})" for role, c in COLORS.items()}
    inks = {to_hex(c): f"var(--mf-ink-{role}, {to_hex(c)})" for role, c in INK.items()}
    plain = {
        to_hex(GROUND): f"var(--mf-ground, {to_hex(GROUND)})",
        to_hex(GRID): f"var(--mf-grid, {to_hex(GRID)})",
        _BLACK: "currentColor",
    }
    return {**inks, **marks, **plain}
