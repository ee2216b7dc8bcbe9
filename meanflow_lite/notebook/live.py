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
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from IPython.display import display

from meanflow_lite.data.toys import toy
from meanflow_lite.fields import GaussianMixture, ProductMixture
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.notebook import figures
from meanflow_lite.runs import cost
from meanflow_lite.runs.settings import PRESETS as SETTINGS


@dataclass(frozen=True)
class Picture:
    """One kind of live picture: its scripts, the names of its parts, the state that it starts in.

    ``parts`` are what ``data-live`` can light; the keys of ``start`` are what it can set.
    """

    start: Mapping[str, Any]
    parts: tuple[str, ...] = ()
    law: str | None = "mixture_a"
    needs: tuple[str, ...] = field(default=("mixture",))


_PLANE = ("mixture", "plane")
PICTURES: dict[str, Picture] = {
    "cost": Picture(
        {"run": "xl2", "gpu": "H100", "precision": "bfloat16", "gpus": 8, "mfu": 0.35},
        ("textbook", "step", "plain"),
        None,
    ),
    "density": Picture({"t": 0.6, "z": 1.2, "n": 15}, ("path", "data")),
    "drift": Picture(
        {"step": 0, "tau": "0.5", "a": 0.3, "b": -0.5}, ("data", "drift", "samples"), None, _PLANE
    ),
    "dual": Picture(
        {"step": 4, "z": 1.0, "t": 0.5, "v": 0.7, "along": "total"},
        ("z", "t", "a", "b", "c", "u"),
        None,
    ),
    "floor": Picture(
        {"z": 0.4, "t": 0.6}, ("targets", "velocity", "spread", "floor"), needs=("mixture",)
    ),
    "frozen": Picture({"keep": 0.0, "z": 1.5}, ("chord", "path", "velocity", "samples", "data")),
    "guidance": Picture(
        {"omega": 2.0, "y": "0", "a": 1.0, "b": -0.8},
        ("data", "others", "samples", "plain", "path"),
        "classes",
        _PLANE,
    ),
    "hero": Picture({"n": 50, "z": 1.5}, ("data", "path")),
    "path": Picture(
        {"z": 1.5, "r": 0.0, "t": 1.0}, ("path", "chord", "tangent", "miss", "data", "noise")
    ),
    "pinned": Picture(
        {"z": 1.5, "r": 0.1, "t": 0.8},
        ("path", "chord", "tangent", "velocity", "average", "gap"),
    ),
    "posterior": Picture({"z": 0.5, "t": 0.5}, ("data", "velocity", "mean"), None),
    "ranks": Picture({"z": 1.0, "r": 0.0, "t": 1.0}, ("noise", "data", "chord")),
    "rules": Picture(
        {"rule": "eulerian", "r": 0.1, "t": 0.9, "z": -0.8, "part": 0.3},
        ("path", "chord", "first", "last"),
    ),
    "steps": Picture({"solver": "euler", "n": 4, "z": 1.5}, ("path", "steps", "miss", "noise")),
    "weight": Picture({"p": 1.0, "c": 0.001, "error": 2.0}, ("error", "weight", "printed"), None),
}

_PAGE = """<figure class="mf-live" id="{anchor}">
<style>{style}</style>
<div class="mf-body" id="{id}"><noscript><p>This figure moves with JavaScript.</p></noscript></div>
<figcaption>{number}{caption}</figcaption>
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


def law_of(name: str) -> dict[str, Any]:
    """Weights, means, standard deviations (and labels) of a toy, for the scripts."""
    law = toy(name)
    if isinstance(law, GaussianMixture) and law.labels is not None and law.dim == 2:
        whole = {"weights": law.weights, "means": law.means, "stds": law.stds, "labels": law.labels}
        return {key: table.tolist() for key, table in whole.items()}
    if isinstance(law, ProductMixture) and law.dim == 1:
        tables = {"weights": law.weights, "means": law.means, "stds": law.stds}
        return {key: table[0].tolist() for key, table in tables.items()}
    raise ValueError(
        f"law={name!r}: a live picture needs a mixture in one dimension, or one in two with labels"
    )


def costs() -> dict[str, Any]:
    """What the cost calculator multiplies: the published runs and the peaks of GPUs."""
    runs = {}
    for name in ("b2", "xl2"):
        settings = SETTINGS[name]
        runs[name] = {
            "network": settings.network,
            "macs": cost.forward_macs(NETWORKS[settings.network]),
            "steps": settings.count_steps(cost.IMAGENET),
            "batch": settings.batch,
            "passes": asdict(cost.passes(settings)),
        }
    chosen = ("H100", "H200", "A100", "L4", "T4")
    peaks = {"bfloat16": cost.PEAKS, "TF32": cost.PEAKS_TF32, "float32": cost.PEAKS_FLOAT32}
    return {"runs": runs, "peaks": {k: {g: v[g] for g in chosen} for k, v in peaks.items()}}


def _given(kind: str, law: str | None) -> dict[str, Any] | None:
    if kind == "cost":
        return costs()
    if law is None:
        return None
    given = law_of(law)
    has, draws = 1 + ("labels" in given), 1 + ("plane" in PICTURES[kind].needs)
    if has != draws:
        raise ValueError(f"law={law!r} has dimension {has}: {kind!r} draws dimension {draws}")
    return given


def live_html(
    kind: str, *, id: str, caption: str, law: str | None = None, number: str = "", **start: Any
) -> str:
    """The HTML of `live`, as a string; ``number`` is that of the figure, such as "5.2"."""
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
    values = [id, kind, {**picture.start, **start}, _given(kind, name)]
    return _PAGE.format(
        id=id,
        anchor=f"figure-{number.replace('.', '-')}" if number else f"live-{id}",
        number=f"<strong>Figure {number}.</strong> " if number else "",
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
    name = figures.number()
    page = live_html(kind, id=id, caption=caption, law=law, number=name, **start)
    text = figures.numbered(caption, name).replace("**", "")
    display({"text/html": page, "text/plain": text}, raw=True)
