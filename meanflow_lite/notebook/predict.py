"""Predictions: a question with buttons before the answer, a box that scores the choice after it.

The choice is kept in the reader's browser, nothing is sent. The HTML depends on the arguments
alone, so nbval compares all of it; without JavaScript it reads as a list and a sentence.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from IPython.display import display

from meanflow_lite.notebook.live import check_id, script

_ASKED: dict[str, tuple[str, ...]] = {}  # what this kernel has asked, for `score` to refer to

_QUESTION = """<div class="mf-predict mf-live" id="predict-{id}">
<style>{style}</style>
<p class="mf-question">{question}</p>
<div class="mf-options" role="group" aria-label="Your prediction">
{buttons}
</div>
<p class="mf-said" role="status"></p>
<script>
{script}
meanflow.predict("{id}");
</script>
</div>"""

_SCORE = """<div class="mf-score mf-live" id="score-{id}"
 data-right="{right}" data-options="{options}">
<style>{style}</style>
<p class="mf-yours" role="status"></p>
<p>The answer: <b>{answer}</b>. {why}</p>
<script>
{script}
meanflow.score("{id}");
</script>
</div>"""


def _style() -> str:
    return script("ink.css") + script("predict.css")


def predict(id: str, question: str, options: Sequence[str]) -> None:
    """Ask ``question`` with a button for each of the ``options`` (two to six, plain text).

    ``id`` starts with the chapter, as in ``"10-loss"``; `score` names it later.

    Raises:
        ValueError: for an id that cannot be used, a question that is no sentence, or options that
            are too few, too many, empty or equal.
    """
    check_id(id)
    if len(question.split()) < 4:
        raise ValueError(f"question={question!r}: ask in a sentence of four words or more")
    if not 2 <= len(options) <= 6 or len(set(options)) < len(options) or not all(options):
        raise ValueError(f"options={list(options)}: give two to six different answers")
    _ASKED[id] = tuple(options)
    buttons = "\n".join(
        f'<button type="button" aria-pressed="false" data-option="{n}">{html.escape(o)}</button>'
        for n, o in enumerate(options)
    )
    page = _QUESTION.format(
        id=id, style=_style(), question=html.escape(question, quote=False), buttons=buttons,
        script=script("predict.js"),
    )  # fmt: skip
    listed = "".join(f"\n- {o}" for o in options)
    display({"text/html": page, "text/plain": question + listed}, raw=True)


def score(id: str, right: int | Sequence[int], why: str) -> None:
    """Score the prediction ``id``: ``right`` is the index of the right option, or several.

    ``why`` is a sentence that says what decided; it may hold computed numbers.

    Raises:
        ValueError: if `predict` has not asked ``id``, or has no such option.
    """
    if id not in _ASKED:
        raise ValueError(f"id={id!r}: ask it with predict() first; asked so far: {sorted(_ASKED)}")
    options = _ASKED[id]
    indices = [right] if isinstance(right, int) else list(right)
    if not indices or not all(0 <= k < len(options) for k in indices):
        raise ValueError(f"right={right}: {id!r} has the options 0 to {len(options) - 1}")
    answer = " or ".join(options[k] for k in indices)
    page = _SCORE.format(
        id=id, right=json.dumps(indices), options=html.escape(json.dumps(list(options))),
        style=_style(), answer=html.escape(answer, quote=False),
        why=html.escape(why, quote=False), script=script("predict.js"),
    )  # fmt: skip
    display({"text/html": page, "text/plain": f"The answer: {answer}. {why}"}, raw=True)
