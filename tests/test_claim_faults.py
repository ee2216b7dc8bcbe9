"""A row that holds would fall with a fault: plant one, run the row's cell, see it fail.

The cells of a chapter up to the tagged one run as they are. Then the tagged one runs twice: as it
is, and with one thing replaced by a wrong one.
"""

import contextlib
import io

import matplotlib
import pytest
import torch

from tools.sources import SOURCES, read, tags

matplotlib.use("Agg")


def cells_before(stem: str, claim: str):
    """Code in front of the tagged cell, without figures, and the tagged cell."""
    before = []
    for cell in read(SOURCES / f"{stem}.md"):
        if f"claim-{claim}" in tags(cell):
            return before, cell.source
        if cell.cell_type == "code" and "nb.show" not in cell.source:
            before.append((tags(cell), cell.source))
    raise AssertionError(f"{stem} has no cell tagged claim-{claim}")


def space(stem: str, before) -> dict:
    """The names that the cells in front define; exercises and checks are left out."""
    names: dict = {}
    for found, source in before:
        if not {"exercise", "check", "predict"} & set(found) and "nb.live" not in source:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, stem, "exec"), names)
    return names


def wrong_velocity(names):
    """The velocity of another time."""
    data = names["toys"].product
    twisted = data()
    good = twisted.average
    twisted.average = lambda z, r, t, y=None: good(z, r, 0.9 * t)
    names["toys"] = type("Toys", (), {"product": staticmethod(lambda: twisted)})


def scaled_field(names):
    """An average velocity that is a tenth too small."""
    sharp = names["two_modes"](2.0)
    good = sharp.average
    sharp.average = lambda z, r, t, y=None: 0.9 * good(z, r, t)
    names["sharp"] = sharp


FAULTS = {
    "article-44": ("13_flow_maps", wrong_velocity),
    "article-40": ("24_proved", scaled_field),
}


@pytest.mark.slow
@pytest.mark.parametrize("claim", FAULTS)
def test_the_cell_of_a_claim_that_holds_fails_with_a_planted_fault(claim, monkeypatch):
    stem, plant = FAULTS[claim]
    monkeypatch.chdir(SOURCES.parent)
    # predictions are asked in cells with live pictures, which are left out
    monkeypatch.setattr("meanflow_lite.notebook.score", lambda *_, **__: None)
    torch.manual_seed(0)
    before, cell = cells_before(stem, claim)
    names = space(stem, before)
    exec(compile(cell, stem, "exec"), dict(names))
    plant(names)
    with pytest.raises(AssertionError):
        exec(compile(cell, stem, "exec"), names)
