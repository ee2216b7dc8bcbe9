"""Panels: what a page keeps is the same in every run, and the live part redraws."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from meanflow_lite.notebook.panels import Panel, control
from tools import chapters
from tools import notebooks as tool

PANEL = """
import matplotlib.pyplot as plt
from meanflow_lite import notebook as nb

def draw(slope, name):
    fig, ax = plt.subplots()
    ax.plot([0, slope], label=name)
    return fig

nb.panel(draw, alt="A line of slope one", slope=(1, 3, 1), name=["first", "second"])
"""
BARE = "import ipywidgets\nipywidgets.IntSlider()"


def executed(code):
    book = new_notebook(cells=[new_code_cell(code, id="panel")])
    book.metadata["meanflow_lite"] = {}
    tool.execute(book)
    tool.stamp(book, 0.0)
    return book


@pytest.mark.slow
def test_what_a_page_keeps_is_described_and_the_same_twice():
    first, second = executed(PANEL), executed(PANEL)
    assert first.cells[0].outputs == second.cells[0].outputs
    picture, *_, sentence = first.cells[0].outputs
    assert picture.metadata["image/png"]["alt"] == "A line of slope one"
    assert sentence.data == {
        "text/plain": "Run this cell in Jupyter or Colab to choose slope, name."
    }
    assert "widget" not in nbformat.writes(first).replace("ipywidgets", "")
    assert chapters.lint_notebook(first) == []


@pytest.mark.slow
def test_the_linter_finds_a_live_widget():
    book = new_notebook(cells=[new_code_cell(BARE, id="bare")])
    tool.execute(book)
    assert any("live widget" in problem for problem in chapters.lint_notebook(book))
    book.metadata["widgets"] = {}
    assert any("state of widgets" in problem for problem in chapters.lint_notebook(book))


def drawing(seen):
    def draw(**values):
        seen.append(values)
        fig, ax = plt.subplots()
        ax.plot(range(values["steps"]))
        return fig

    return draw


def test_a_change_of_a_value_redraws():
    seen = []
    live = Panel(drawing(seen), {"steps": (2, 9, 1, 3), "toy": ["ring", "moons"]})
    assert seen == [] and live.values == {"steps": 3, "toy": "ring"}
    assert live.picture.layout.display == "none"
    live.controls["steps"].value = 5
    assert seen == [{"steps": 5, "toy": "ring"}]
    five = bytes(live.picture.value)
    assert five.startswith(b"\x89PNG") and live.picture.layout.display is None
    assert live.text.value == "steps = 5, toy = ring"
    live.controls["steps"].value = 5  # no change
    assert len(seen) == 1
    live.controls["toy"].value = "moons"
    live.controls["steps"].value = 7
    assert seen[-1] == {"steps": 7, "toy": "moons"} and bytes(live.picture.value) != five
    assert plt.get_fignums() == []


def test_with_a_button_only_a_click_redraws():
    seen = []
    live = Panel(drawing(seen), {"steps": (2, 9, 1)}, button="Train")
    live.controls["steps"].value = 4
    assert seen == []
    live.button.click()
    assert seen == [{"steps": 4}]


def test_an_error_is_told_and_the_next_value_draws():
    def draw(steps):
        if steps == 3:
            raise ValueError("three is <not> drawn")
        return plt.figure()

    live = Panel(draw, {"steps": (2, 9, 1)})
    live.controls["steps"].value = 3
    assert live.text.value == "It stopped with ValueError: three is &lt;not&gt; drawn"
    live.controls["steps"].value = 4
    assert live.text.value == "steps = 4"


def test_kinds_of_controls():
    assert isinstance(control("n", (1, 3, 1)), widgets.IntSlider)
    share = control("share", (0.0, 1.0, 0.25, 0.5))
    assert isinstance(share, widgets.FloatSlider) and share.value == 0.5
    assert control("toy", ["b", "a"]).value == "b"
    box = widgets.Checkbox(value=True)
    assert control("box", box) is box


@pytest.mark.parametrize(
    "given", [3, "ring", [], (1, 2), (3, 1, 1), (1, 3, 0), (0.0, 1.0, 0.5, 2.0), widgets.VBox()]
)
def test_a_bad_control_is_named(given):
    with pytest.raises(ValueError, match="control omega="):
        control("omega", given)
    with pytest.raises(ValueError, match="control omega="):
        Panel(drawing([]), {"steps": (2, 9, 1), "omega": given})


def test_a_panel_without_controls_is_refused():
    with pytest.raises(ValueError, match="at least one control"):
        Panel(drawing([]), {})
