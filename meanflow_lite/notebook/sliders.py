"""Sliders for a static page: every frame is drawn beforehand, no kernel and no network is needed.

The HTML is deterministic: ids come from the caller, frames are listed in order, and the only part
that depends on the build of matplotlib, the base64 of each PNG, is what nbval is told to ignore.
Each frame carries a description, shown under the picture and read aloud by screen readers; the
first picture and the list of descriptions stay when there is no JavaScript.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Callable, Sequence

from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from meanflow_lite.notebook.figures import png

_FRAME_DPI = 110

_TEMPLATE = """<div class="mf-slider" id="{id}" role="group" aria-label="{title}">
<style>
.mf-slider {{ max-width: {width}px; margin: 0 auto; font-family: inherit; }}
.mf-slider img {{ width: 100%; height: auto; display: block; background: #fff; }}
.mf-slider label {{ display: flex; gap: .7em; align-items: center; margin: .4em 0; }}
.mf-slider input {{ flex: 1; min-width: 0; height: 1.6em; accent-color: #009E73; }}
.mf-slider output {{ min-width: 5.5em; font-variant-numeric: tabular-nums; }}
.mf-slider p {{ margin: .2em 0; font-size: .9em; min-height: 2.6em; }}
</style>
<img alt="{alt}" src="{src}">
{inputs}
<p aria-live="polite">{alt}</p>
<noscript><details><summary>Every position of the slider, in words</summary><ol>
{words}
</ol></details></noscript>
<script>
(function () {{
  var root = document.getElementById("{id}");
  var frames = {frames};
  var alts = {alts};
  var table = {table};
  var labels = {labels};
  var picture = root.querySelector("img"), text = root.querySelector("p");
  var inputs = root.querySelectorAll("input"), outputs = root.querySelectorAll("output");
  function update() {{
    var at = table;
    for (var i = 0; i < inputs.length; i++) {{
      var k = Number(inputs[i].value);
      at = at[k];
      outputs[i].textContent = labels[i][k];
      inputs[i].setAttribute("aria-valuetext", labels[i][k]);
    }}
    picture.src = frames[at];
    picture.alt = alts[at];
    text.textContent = alts[at];
  }}
  for (var i = 0; i < inputs.length; i++) inputs[i].addEventListener("input", update);
  update();
}})();
</script>
</div>"""

_INPUT = (
    '<label for="{id}-{n}"><span>{name}</span>'
    '<input type="range" id="{id}-{n}" min="0" max="{last}" step="1" value="{start}">'
    '<output for="{id}-{n}">{label}</output></label>'
)


def _frame(fig: Figure) -> tuple[str, int]:
    """The figure as a data address (a PNG of at most 64 colors) and its width in CSS pixels."""
    width = round(fig.get_figwidth() * 100)
    image = Image.open(io.BytesIO(png(fig, dpi=_FRAME_DPI))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), width


def _check(id: str, alts: Sequence[str], values: Sequence[object]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", id):
        raise ValueError(f"id={id!r}: use lower-case letters, digits and hyphens, as in '04-chord'")
    if len(values) < 2:
        raise ValueError(f"slider {id!r} has {len(values)} position(s); it needs at least two")
    short = [a for a in alts if len(a.split()) < 4]
    if short:
        raise ValueError(
            f"slider {id!r}: describe each frame in four words or more, not {short[0]!r}"
        )


def _page(
    id: str,
    title: str,
    names: Sequence[str],
    labels: Sequence[Sequence[str]],
    frames: Sequence[tuple[str, int]],
    alts: Sequence[str],
    table: object,
    start: Sequence[int],
) -> str:
    at = table
    for k in start:
        at = at[k]  # pyright: ignore[reportIndexIssue]
    assert isinstance(at, int)
    pictures = [picture for picture, _ in frames]
    inputs = "\n".join(
        _INPUT.format(
            id=id, n=n, name=html.escape(name), last=len(labels[n]) - 1, start=start[n],
            label=html.escape(labels[n][start[n]]),
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    # "</" would end the script element early.
    text = [json.dumps(part).replace("</", "<\\/") for part in (pictures, alts, table, labels)]
    return _TEMPLATE.format(
        id=id,
        title=html.escape(title, quote=True),
        width=max(width for _, width in frames),
        alt=html.escape(alts[at], quote=True),
        src=pictures[at],
        inputs=inputs,
        words="\n".join(f"<li>{html.escape(a)}</li>" for a in alts),
        frames=text[0],
        alts=text[1],
        table=text[2],
        labels=text[3],
    )


def slider(
    draw: Callable[[float], Figure],
    values: Sequence[float],
    *,
    id: str,
    name: str,
    alt: Callable[[float], str],
    start: int = 0,
    label: Callable[[float], str] = lambda value: f"{value:.2f}",
) -> None:
    """One slider over ``values``: ``draw(value)`` gives a frame, ``alt(value)`` says what it shows.

    ``id`` is unique in the book and starts with the chapter, as in ``"02-crossing"``; ``name`` is
    what stands beside the slider; ``start`` is an index. At most some 25 frames, about 12 kB each.
    """
    alts = [" ".join(alt(value).split()) for value in values]
    _check(id, alts, values)
    frames = [_frame(draw(value)) for value in values]  # one open figure at a time
    page = _page(
        id, f"Figure with a slider for {name}", [name], [[label(v) for v in values]],
        frames, alts, list(range(len(frames))), [start],
    )  # fmt: skip
    display({"text/html": page, "text/plain": alts[start]}, raw=True)


def triangle_slider(
    draw: Callable[[float, float], Figure],
    values: Sequence[float],
    *,
    id: str,
    alt: Callable[[float, float], str],
    start: tuple[int, int],
    label: Callable[[float], str] = lambda value: f"{value:.2f}",
) -> None:
    """Two sliders over the triangle r <= t: ``draw(r, t)`` gives a frame, ``alt(r, t)`` its words.

    Both run over ``values`` (ascending). Where the reader asks for r > t the frame of r = t is
    shown. ``start`` holds the indices of r and t. Nine values make 45 frames: keep them small.
    """
    pairs = [(i, j) for i in range(len(values)) for j in range(i, len(values))]
    alts = [" ".join(alt(values[i], values[j]).split()) for i, j in pairs]
    _check(id, alts, values)
    if list(values) != sorted(values):
        raise ValueError(f"slider {id!r}: values={list(values)} must ascend")
    frames = [_frame(draw(values[i], values[j])) for i, j in pairs]
    place = {pair: k for k, pair in enumerate(pairs)}
    n = range(len(values))
    table = [[place[min(i, j), j] for j in n] for i in n]
    texts = [label(v) for v in values]
    page = _page(
        id, "Figure with sliders for r and t", ["r", "t"], [texts, texts],
        frames, alts, table, list(start),
    )  # fmt: skip
    display({"text/html": page, "text/plain": alts[table[start[0]][start[1]]]}, raw=True)
