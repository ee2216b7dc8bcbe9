"""The ledger: every claim names a cell that exists, every cell's claim has a row."""

import re
from pathlib import Path

import pytest
import yaml

from meanflow_lite.notebook.findings import told
from tools import notebooks as tool

ROOT = Path(__file__).resolve().parent.parent
STATUSES = {
    "holds",
    "fails",
    "depends",
    "quoted correctly",
    "quoted wrongly",
    "not testable here",
    "open",
}
TOYS = {"agrees", "disagrees", "no difference"}
# Rows of the article, one a statement; none may be dropped.
ARTICLE_ROWS = [f"article-{n:02d}" for n in range(1, 45)]


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


def toy_problems(name: str, toy: dict | None) -> list[str]:
    """What a toy shows is one of three words, with an interval."""
    if toy is None or (toy.get("shows") in TOYS and toy.get("interval")):
        return []
    return [f"{name} says of the toy {toy}: one of {sorted(TOYS)} and an interval"]


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
        out += toy_problems(name, row.get("toy"))
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
    "status": "holds",
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
        ({"status": "reproduced"}, {"a": {"05_x"}}, "has the status"),
        ({"toy": {"shows": "yes", "interval": "i"}}, {"a": {"05_x"}}, "says of the toy"),
        ({"toy": {"shows": "agrees", "interval": ""}}, {"a": {"05_x"}}, "says of the toy"),
    ],
)
def test_each_disagreement_is_found(change, cells, says):
    found = problems([{**ROW, **change}], cells)
    assert found == [] if says is None else any(says in p for p in found), found


#: Digits that are no result: names of sizes, formulas, equations, identifiers, theorems.
NAMES = re.compile(
    r"\{[^}]*\}|\b(?:B|M|L|XL)/\d\+?|arXiv \d+\.\d+|\bTheorem \d+|\bN\(0, 1\)|\(v, 0, 1\)"
    r"|kappa = 1 - 1/omega|r = 1 - t|\b(?:p|r|alpha|omega) = \d|\bz_\d\b|at 1, and at 1/2"
    r"|without the 1 the"
)


def typed_numbers(text: str) -> list[str]:
    """Digits in a sentence that neither a template nor a name explains."""
    return re.findall(r"\S*\d\S*", NAMES.sub(" ", text))


def test_no_number_of_the_ledger_is_typed():
    for row in ledger():
        texts = [row.get("why", ""), row.get("toy", {}).get("interval", "")]
        assert [n for t in texts for n in typed_numbers(t)] == [], row["id"]
    assert typed_numbers("B/2 has 6.17, at p = 1") == ["6.17,"]
    assert typed_numbers("{published:meanflow-b2-1nfe:.2f} for B/2") == []


def test_every_template_of_the_ledger_is_filled():
    for row in ledger():
        for text in (row.get("why", ""), row.get("toy", {}).get("interval", "")):
            assert "{" not in told(text), row["id"]
    assert told("{published:meanflow-xl2plus-2nfe:.2f}") == "2.20"
    assert told("{published:meanflow-xl2plus-2nfe:epochs}") == "1000"
    with pytest.raises(KeyError, match="no finding 'nothing'"):
        told("{results:nothing}")
    with pytest.raises(KeyError, match="has no epochs"):
        told("{published:dit-b2-params:epochs}")


def test_what_a_toy_shows_is_what_its_interval_says():
    """A single ratio whose interval holds one shows no difference; any other does."""
    checked = 0
    for row in ledger():
        text = told(row.get("toy", {}).get("interval", ""))
        found = re.findall(r"ratio \S+ \[(\S+), (\S+)\]", text)
        if len(found) == 1 and text.startswith("ratio"):
            low, high = map(float, found[0])
            assert (row["toy"]["shows"] == "no difference") == (low < 1 < high), row["id"]
            checked += 1
    assert checked > 5


def test_no_two_rows_judge_one_sentence():
    claims = [re.sub(r"\W+", " ", row["claim"].lower()).strip() for row in ledger()]
    assert sorted(c for c in set(claims) if claims.count(c) > 1) == []


def test_a_quoted_number_is_not_called_a_finding():
    """A row that holds or fails is not settled by comparing published numbers alone."""
    for row in ledger():
        if row["status"] in ("holds", "fails"):
            assert "authors' number" not in row["why"], row["id"]
