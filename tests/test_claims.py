"""The ledger: every claim names a cell that exists, every cell's claim has a row."""

import re
from pathlib import Path

import pytest
import yaml

from tools import notebooks as tool

ROOT = Path(__file__).resolve().parent.parent
STATUSES = {"reproduced", "contradicted", "not testable here", "open"}
# Rows of the article, one a statement; none may be dropped.
ARTICLE_ROWS = [f"article-{n:02d}" for n in range(1, 36)]


def ledger() -> list[dict]:
    return yaml.safe_load((ROOT / "book" / "claims.yml").read_text("utf-8"))


def cells_by_claim() -> dict[str, set[str]]:
    """Claim id to the chapters in which a cell carries its tag."""
    found: dict[str, set[str]] = {}
    for source in tool.sources():
        for cell in tool.read(source):
            for tag in tool.tags(cell):
                if tag.startswith("claim-"):
                    found.setdefault(tag.removeprefix("claim-"), set()).add(source.stem)
    return found


def problems(rows: list[dict], cells: dict[str, set[str]]) -> list[str]:
    """Where ledger and chapters disagree."""
    out = []
    ids = [row["id"] for row in rows]
    out += [f"{i} stands twice" for i in sorted({i for i in ids if ids.count(i) > 1})]
    out += [f"a cell checks {i}, which has no row" for i in sorted(set(cells) - set(ids))]
    for row in rows:
        name, status = row["id"], row.get("status")
        if status not in STATUSES:
            out.append(f"{name} has the status {status!r}")
        if not row.get("claim") or not row.get("source"):
            out.append(f"{name} lacks claim or source")
        if status == "open":
            if not re.fullmatch(r"\d\d", str(row.get("chapter", ""))):
                out.append(f"{name} is open and no chapter is planned for it")
            continue
        if not row.get("why"):
            out.append(f"{name} does not say why it is {status}")
        if status != "not testable here" and row.get("notebook") not in cells.get(name, set()):
            out.append(
                f"{name} names {row.get('notebook')!r}, where no cell is tagged claim-{name}"
            )
    return out


def test_ledger_and_chapters_agree():
    assert problems(ledger(), cells_by_claim()) == []


def test_every_statement_of_the_article_is_a_row():
    ids = {row["id"]: row for row in ledger()}
    assert [i for i in ARTICLE_ROWS if i not in ids] == []
    assert all("article" in ids[i]["source"] for i in ARTICLE_ROWS)


def test_open_rows_belong_to_chapters_that_are_not_written():
    written = {p.stem[:2] for p in tool.sources()}
    late = [r["id"] for r in ledger() if r["status"] == "open" and r["chapter"] in written]
    assert late == [], "these chapters exist: settle the rows, or plan them for another chapter"


ROW = {
    "id": "a",
    "claim": "c",
    "source": "s",
    "status": "reproduced",
    "why": "w",
    "notebook": "05_x",
}


@pytest.mark.parametrize(
    ("change", "cells", "says"),
    [
        ({}, {"a": {"05_x"}}, None),
        ({}, {}, "no cell is tagged claim-a"),
        ({}, {"a": {"06_y"}}, "no cell is tagged claim-a"),
        ({}, {"a": {"05_x"}, "b": {"05_x"}}, "a cell checks b"),
        ({"why": ""}, {"a": {"05_x"}}, "does not say why"),
        ({"status": "true"}, {"a": {"05_x"}}, "has the status"),
        ({"status": "open"}, {}, "no chapter is planned"),
        ({"status": "open", "chapter": "07"}, {}, None),
        ({"status": "not testable here"}, {}, None),
    ],
)
def test_each_disagreement_is_found(change, cells, says):
    found = problems([{**ROW, **change}], cells)
    assert found == [] if says is None else any(says in p for p in found), found
