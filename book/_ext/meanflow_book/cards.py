"""Long tables as cards: the ledger and the published numbers, each row with an anchor of its own.

A row is HTML around Markdown, so that its sentences are linked like any other. `_static/pages.js`
filters the cards of a page; without it all of them are there.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

import yaml

from meanflow_book.chapters import ROOT, titled
from meanflow_lite.notebook.claims import all_published
from meanflow_lite.notebook.findings import told
from meanflow_lite.notebook.live import live_html

STATUSES = {
    "fails": "The claim as it is made is wrong, and a cell shows it.",
    "quoted wrongly": "The source says something else. Nothing was trained to find out.",
    "depends": "It holds under a condition that the claim leaves out.",
    "holds": "A cell finds what is claimed, and would have failed otherwise.",
    "quoted correctly": "The source says so. That is all that was checked.",
    "not testable here": "It is about training at scale, or about causes and history.",
    "open": "No chapter has settled it yet.",
}
#: How a source begins, and the name of the group that it belongs to.
VOICES = {
    "the article": "the article",
    "MeanFlow paper": "the paper",
    "improved MeanFlow paper": "its successors",
    "AlphaFlow paper": "its successors",
    "SplitMeanFlow paper": "its successors",
    "Drifting Models paper": "its successors",
    "Shortcut models paper": "its successors",
}


def ledger() -> list[dict[str, Any]]:
    """The rows of claims.yml."""
    return yaml.safe_load((ROOT / "book" / "claims.yml").read_text("utf-8"))


def voice(source: str) -> str:
    """Who speaks: the article, the paper, its successors, or others."""
    return next((name for start, name in VOICES.items() if source.startswith(start)), "others")


def plain(text: object) -> str:
    """Text that Markdown leaves alone but for emphasis and code."""
    return " ".join(str(text).replace("$", "\\$").split())


def headline() -> str:
    """The ledger as a bar: how many claims stand how, each part a link to its rows."""
    count = Counter(row["status"] for row in ledger())
    parts, total = [s for s in STATUSES if count[s]], sum(count.values())
    bars = "".join(
        f'<a class="mf-{_slug(s)}" style="flex-grow: {count[s]}" href="claims.html#{_slug(s)}">'
        f"<b>{count[s]}</b> {s}</a>"
        for s in parts
    )
    said = f"{total} claims: " + ", ".join(f"{count[s]} {s}" for s in parts) + "."
    return f'<div class="mf-bar" role="group" aria-label="{said}">{bars}</div>'


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def _filter(groups: dict[str, list[str]]) -> str:
    """The form that filters the cards: words, and a choice for each group."""
    chosen = "".join(
        f'<label>{label} <select data-filter="{label}"><option value="">all</option>'
        + "".join(f"<option>{escape(v)}</option>" for v in values)
        + "</select></label>"
        for label, values in groups.items()
    )
    words = '<label>words <input type="search" data-filter="words"></label>'
    count = '<output aria-live="polite"></output>'
    return f'<form class="mf-filter mf-wide" hidden>{words}{chosen}{count}</form>'


def card(id: str, data: dict[str, str], parts: list[str]) -> str:
    """One row: an article with an anchor, what it can be filtered by, and its paragraphs."""
    given = " ".join(f'data-{name}="{escape(value)}"' for name, value in data.items())
    link = f'<a class="mf-anchor" href="#{id}" aria-label="link to the row {id}">{id}</a>'
    inside = "\n\n".join(p for p in parts if p)
    return f'<article class="mf-row" id="{id}" {given}>{link}\n\n{inside}\n\n</article>'


def landing_picture() -> str:
    """The book in one picture, exact and alive."""
    caption = (
        "Drag a noise, or change the steps: many steps of the velocity v reach the data, one "
        "misses it, one step of the average velocity u does not."
    )
    return f'<div class="mf-landing">{live_html("hero", id="hero", caption=caption)}</div>'


def standing(rows: list[dict[str, Any]]) -> list[str]:
    """The verdicts that occur, in the order of `STATUSES`."""
    return [s for s in STATUSES if any(row["status"] == s for row in rows)]


def claims_filter() -> str:
    """The form above the ledger."""
    rows = ledger()
    voices = sorted({voice(row["source"]) for row in rows})
    return _filter({"verdict": standing(rows), "who": voices})


def published_filter() -> str:
    """The form above the published numbers."""
    return _filter({"read": sorted({n.trust for n in all_published().values()})})


def claims_page() -> str:
    """The ledger: a card a claim, by status."""
    rows = ledger()
    parts = []
    for status in standing(rows):
        chosen = [row for row in rows if row["status"] == status]
        parts += [f"## {status.capitalize()} ({len(chosen)})", STATUSES[status]]
        parts.append(f'<div class="mf-rows" id="{_slug(status)}">')
        parts += [_claim(row) for row in chosen]
        parts.append("</div>")
    return "\n\n".join(parts)


def _claim(row: dict[str, Any]) -> str:
    where = f"Tested in {titled(row['notebook'])}." if "notebook" in row else ""
    why = told(row["why"]) if "why" in row else f"Planned for chapter {row['chapter']}."
    toy = row.get("toy")
    shows = f"On the toys: {toy['shows']} ({plain(told(toy['interval']))})." if toy else ""
    stamp = f'<p class="mf-stamp mf-{_slug(row["status"])}">{row["status"]}</p>'
    quote = f'<p class="mf-who">{escape(row["source"])} says</p>\n\n> {plain(row["claim"])}'
    data = {"verdict": row["status"], "who": voice(row["source"])}
    return card(row["id"], data, [stamp, quote, plain(why), shows, where])


def published_page() -> str:
    """Every published number with its conditions, by source."""
    groups: dict[str, list[Any]] = {}
    for number in all_published().values():
        groups.setdefault(paper(number.source), []).append(number)
    parts = []
    for source, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        parts.append(f"## {source[0].upper() + source[1:]} ({len(members)})")
        parts.append('<div class="mf-rows mf-numbers">')
        parts += [_number(n, source) for n in members]
        parts.append("</div>")
    return "\n\n".join(parts)


def paper(source: str) -> str:
    """The work that a source is a place in: what stands before the table, figure or appendix."""
    head, *rest = source.split(", ")
    kept = [head]
    places = ("Table", "Figure", "appendix", "section", "text", "ablations", "abstract", "through")
    for part in rest:
        if part.startswith(places):
            break
        kept.append(part)
    return ", ".join(kept)


def conditions(n: Any) -> str:
    """The conditions of a number as chips; what was not read is left out."""
    said = [f"NFE {n.nfe}" if n.nfe else "", f"guidance: {n.guidance}" if n.guidance else ""]
    said += [f"{n.epochs} epochs" if n.epochs else "", f"labels: {n.labels}" if n.labels else ""]
    said += [f"tokenizer: {n.tokenizer}" if n.tokenizer else ""]
    said += [f"batch: {n.batch}" if n.batch else ""]
    chips = "".join(f"<span>{escape(str(text))}</span>" for text in said if text)
    return f'<p class="mf-chips">{chips}</p>' if chips else ""


def _number(n: Any, source: str) -> str:
    place = n.source.removeprefix(source).strip(", ")
    read = f"{place[0].upper() + place[1:]}; {n.trust}." if place else f"{n.trust.capitalize()}."
    value = f'<p class="mf-value">{escape(f"{n}")}</p>'
    note = plain(n.note) if n.note else ""
    return card(n.key, {"read": n.trust}, [value, plain(n.what), conditions(n), read, note])
