"""The full-scale pages: their commands are commands, their numbers are those of `cost`."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_lite import cli
from meanflow_lite.notebook.claims import all_published
from meanflow_lite.runs import PRESETS, cost

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from meanflow_book import full_scale  # noqa: E402

PAGES = {p: (ROOT / "book" / p).read_text("utf-8") for p in ("full_scale.md", "run_cards.md")}
PAGES["chapter 22"] = (ROOT / "notebooks" / "src" / "22_pipeline.md").read_text("utf-8")
PAGES["cards"] = full_scale.cards_page()


def commands(text: str) -> list[list[str]]:
    """What follows `meanflow-lite`, or `-m meanflow_lite`, in the fenced blocks of a page."""
    found = []
    for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            start = re.search(r"^meanflow-lite |torchrun .*-m meanflow_lite ", line)
            if start:
                found.append(line[start.end() :].split())
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page):
    lines = commands(PAGES[page])
    assert len(lines) >= 5 or page == "run_cards.md"
    for line in lines:
        assert isinstance(cli.parse(line), cli.COMMANDS[line[0]].load()), line


def test_a_command_that_is_none_is_found(capsys):
    with pytest.raises(SystemExit):
        cli.parse(commands("```text\nmeanflow-lite train --presets b2\n```")[0])
    assert commands("```text\nls\n```") == [] and "--preset" in capsys.readouterr().err


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "digits"])
def test_a_card_is_what_cost_says(preset):
    text = full_scale.card(preset)
    train = cli.parse(commands(text)[0])
    assert train.settings == replace(PRESETS[preset], bf16=True, compile=True)
    found = cost.estimate(train.settings)
    assert f"**{cost.duration(found.hours)}** in bfloat16" in text
    assert f"{found.steps:,}" in text and f"{found.rows} images" in text
    slow = cost.estimate(PRESETS[preset])
    assert f"{cost.duration(slow.hours)} in float32" in text


def test_pages_say_what_was_not_run_on_a_gpu():
    for page in ("full_scale.md", "run_cards.md"):
        assert re.search(r"\*\*(None|Nothing)[^*]*\b(was|on a GPU)", PAGES[page])


def test_the_table_of_distances_has_every_one_once():
    rows = full_scale.fid_page().splitlines()[2:]
    chosen = [n for n in all_published().values() if "ImageNet 256, class-conditional" in n.what]
    assert len(rows) == len([n for n in chosen if not n.key.startswith("article")]) > 30
    assert all(row.count("|") == 8 for row in rows)
    evaluations = [eval(row.split("|")[3].replace("x", "*")) for row in rows]
    assert evaluations == sorted(evaluations) and evaluations[-1] == 500


def test_plans_on_paper():
    """At a fixed batch arithmetic shrinks with the nodes and traffic does not."""
    assert full_scale.traffic("xl2", 16) < 2 * 4 * 676.5e6 < 1.1 * full_scale.traffic("xl2", 16)
    assert full_scale.traffic("xl2", 64) > full_scale.traffic("xl2", 16)
    one, four = (cost.estimate(replace(PRESETS["xl2"], bf16=True), gpus=n) for n in (8, 32))
    fast = full_scale.LINKS["400 Gb/s a GPU"]
    two = one.seconds_per_step / 2
    assert 1.9 < full_scale.traffic("xl2", 16) / fast / two < 2.2  # as the page says: twice
    assert 3.8 < full_scale.traffic("xl2", 32) / fast / four.seconds_per_step < 4.4
    assert four.seconds_per_step == pytest.approx(one.seconds_per_step / 4)
    slow = full_scale.traffic("xl2", 32) / full_scale.LINKS["100 Gb/s a node"]
    assert slow > 1 > full_scale.traffic("xl2", 32) / full_scale.LINKS["400 Gb/s a GPU"]
    assert len(full_scale.nodes_page().splitlines()) == 2 + 7
    assert "420 GB" in full_scale.data_page()
