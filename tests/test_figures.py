"""Figures: a number, a caption and colors that follow the page; unreadable text is refused."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from meanflow_lite import notebook as nb
from meanflow_lite.notebook import figures

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def closed():
    nb.setup(chapter="09")
    yield
    plt.close("all")


def shown(monkeypatch, fig, **texts):
    """What `show` displays: the data of the figure, and the caption."""
    found = []
    monkeypatch.setattr(figures, "display", lambda *a, **k: found.append(a[0]))
    nb.show(fig, **texts)
    bundle, caption = found
    return bundle, caption.data


def contrast(one: str, other: str) -> float:
    def luminance(color):
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_inks_can_be_read_on_both_grounds_and_marks_are_seen():
    css = (ROOT / "book" / "_static" / "book.css").read_text("utf-8")
    dark = css.split('html[data-theme="dark"] {', 1)[1].split("}", 1)[0]
    ground = re.search(r"--mf-ground: (#\w+)", dark)
    assert ground is not None and set(nb.INK) == set(nb.COLORS)
    for role, ink in nb.INK.items():
        assert contrast(ink, "#ffffff") >= 4.5, role
        twin = re.search(rf"--mf-ink-{role}: (#\w+)", dark)
        assert twin or role == "exact", f"{role} has no ink for the dark page"
        assert twin is None or contrast(twin.group(1), ground.group(1)) >= 4.5, role
    assert contrast(nb.COLORS["flow"], "#ffffff") < 4.5  # the color of a line is no ink


def test_a_figure_has_its_number_its_caption_and_a_shorter_description(monkeypatch):
    fig, (ax,) = nb.panels(1)
    ax.plot([0, 1], [0, 1], color=nb.COLORS["flow"])
    bundle, caption = shown(
        monkeypatch, fig, alt="A line that rises.", caption="A line rises from zero to one."
    )
    assert caption == "**Figure 9.1.** A line rises from zero to one."
    assert bundle["text/plain"] == "A line that rises." and bundle["image/png"][:4] == b"\x89PNG"
    assert nb.numbered("Next.") == "**Figure 9.2.** Next."
    fig, _ = nb.panels(1)
    with pytest.raises(ValueError, match="longer than the caption"):
        nb.show(fig, alt="Five words are too many.", caption="Short.")
    with pytest.raises(ValueError, match="at least four words"):
        nb.show(fig, alt="A line.")


def test_the_drawing_follows_the_page(monkeypatch):
    fig, (ax,) = nb.panels(1)
    ax.plot([0, 1], [0, 1], color=nb.COLORS["flow"])
    ax.text(0.5, 0.5, "flow", color=nb.COLORS["flow"])
    ax.scatter(*torch.zeros(2, 1000), color=nb.COLORS["data"])
    svg = shown(monkeypatch, fig, alt="A line < a cloud of points.")[0][figures.SVG]
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert 'aria-label="A line &lt; a cloud of points."' in svg
    assert "stroke: var(--mf-flow, #e69f00)" in svg and "fill: var(--mf-ink-flow, #8f5f00)" in svg
    assert "<style" not in svg and "<metadata" not in svg  # they would act on the whole page
    assert svg.count("<use") < 100 and "data:image/png" in svg  # the cloud is pixels
    assert all(i.startswith("f9-1-") for i in re.findall(r' id="([^"]+)"', svg))
    used = re.findall(r"(?:url\(|href=\")#([^\")]+)", svg)
    assert used and set(used) <= set(re.findall(r' id="([^"]+)"', svg))


def test_a_drawing_is_the_same_twice(monkeypatch):
    def draw():
        nb.setup(chapter="03")
        fig, (ax,) = nb.panels(1)
        ax.plot([0, 1], [0, 1], label="$x^2$")
        ax.legend()
        return shown(monkeypatch, fig, alt="A line that rises.")[0][figures.SVG]

    assert draw() == draw()


@pytest.mark.parametrize("color", ["#a06a00", "gray", "#777777"])
def test_words_in_a_color_of_their_own_are_refused(color):
    fig, (ax,) = nb.panels(1)
    ax.text(0.5, 0.5, "words", color=color)
    with pytest.raises(ValueError, match="'words' is drawn in"):
        nb.show(fig, alt="Words in the middle.")


def test_a_cell_that_runs_again_keeps_its_number():
    numbers = figures.Numbers("12")
    assert [numbers.of(k) for k in "aba"] == ["12.1", "12.2", "12.1"]
