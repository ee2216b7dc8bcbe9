"""Pictures that live in a static page: closed forms computed by a small script, no kernel needed.

``live("path", id="05-path", caption=...)`` displays a figure that answers to mouse, touch and keys.
The scripts (``live_js/``) are plain JavaScript that travels inside the output, so that a picture
works in the book, in Jupyter and in Colab, with no network. The HTML depends on the arguments
alone: nbval compares all of it. A test in headless Chromium compares the numbers of each picture
with the library's.

Words of the prose can act on pictures. ``<span data-live="chord">chord</span>`` lights the chord;
``<span data-live="05-path:t=0.5,r=0">half way</span>`` sets times. Elsewhere it is plain text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from IPython.display import display

from meanflow_lite.data.toys import toy
from meanflow_lite.fields import ProductMixture


@dataclass(frozen=True)
class Picture:
    """One kind of live picture: its scripts, the names of its parts, the state that it starts in.

    ``parts`` are what ``data-live`` can light; the keys of ``start`` are what it can set.
    """

    start: Mapping[str, Any]
    parts: tuple[str, ...] = ()
    law: str | None = "mixture_a"
    needs: tuple[str, ...] = field(default=("mixture",))


PICTURES: dict[str, Picture] = {
    "path": Picture(
        {"z": 1.5, "r": 0.0, "t": 1.0}, ("path", "chord", "tangent", "miss", "data", "noise")
    ),
    "hero": Picture({"n": 50, "z": 1.5}, ("data", "path")),
}

_PAGE = """<figure class="mf-live" id="{id}">
<style>{style}</style>
<div class="mf-body"><noscript><p>This figure moves with JavaScript.</p></noscript></div>
<figcaption>{caption}</figcaption>
<script>
{scripts}
meanflow.mount({call});
</script>
</figure>"""


@cache
def script(name: str) -> str:
    """A file of ``live_js`` as it travels: without the spaces that only help to read it."""
    text = (files("meanflow_lite.notebook") / "live_js" / name).read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def check_id(id: str) -> None:
    """Raises ``ValueError`` for an id that cannot stand in a page."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", id):
        raise ValueError(f"id={id!r}: use lower-case letters, digits and hyphens, as in '05-path'")


def law_of(name: str) -> dict[str, list[float]]:
    """Weights, means and standard deviations of a one-dimensional toy, for the scripts."""
    law = toy(name)
    if not isinstance(law, ProductMixture) or law.dim != 1:
        raise ValueError(f"law={name!r}: a live picture needs a mixture in one dimension")
    tables = {"weights": law.weights, "means": law.means, "stds": law.stds}
    return {key: table[0].tolist() for key, table in tables.items()}


def live_html(kind: str, *, id: str, caption: str, law: str | None = None, **start: Any) -> str:
    """The HTML of `live`, as a string."""
    if kind not in PICTURES:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(sorted(PICTURES))}")
    check_id(id)
    if len(caption.split()) < 4:
        raise ValueError(f"caption={caption!r}: say what there is to see, in four words or more")
    picture = PICTURES[kind]
    if unknown := set(start) - set(picture.start):
        raise ValueError(
            f"{kind!r} has no {', '.join(sorted(unknown))}: it starts with {dict(picture.start)}"
        )
    name = law or picture.law
    values = [id, kind, {**picture.start, **start}, law_of(name) if name else None]
    return _PAGE.format(
        id=id,
        style=script("ink.css") + script("live.css"),
        caption=html.escape(" ".join(caption.split()), quote=False),
        scripts="\n".join(script(f"{part}.js") for part in (*picture.needs, "stage", kind)),
        call=", ".join(json.dumps(value).replace("</", "<\\/") for value in values),
    )


def live(kind: str, *, id: str, caption: str, law: str | None = None, **start: Any) -> None:
    """Display a live picture, one of `PICTURES`.

    ``id`` is unique in the book and starts with the chapter, as in ``"05-path"``; ``caption`` is a
    sentence under the picture, and what a reader of plain text sees; ``law`` names a toy
    (`meanflow_lite.data.toys`) in one dimension; ``start`` changes where the picture starts, as in
    ``t=0.8``.

    Raises:
        ValueError: for a kind, id, law or start that does not exist; the message names the choices.
    """
    page = live_html(kind, id=id, caption=caption, law=law, **start)
    display({"text/html": page, "text/plain": " ".join(caption.split())}, raw=True)
