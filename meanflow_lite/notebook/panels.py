"""Panels where the kernel computes: controls that redraw a figure, in Jupyter and in Colab.

A page without a kernel holds the figure of the default values, described like any other, and a
sentence that names the controls. Nothing in it differs from run to run: the live part travels as
a mime type that nbval skips and that `tools/notebooks.py` takes out of the committed notebook, so
that the book asks no network for a script.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from meanflow_lite.notebook.figures import png, show

VIEW = "application/vnd.jupyter.widget-view+json"


class Panel:
    """Controls, a picture and a line of text: ``widget`` is what a front end shows.

    A change of a control, or a click where there is a ``button``, calls ``draw`` with all values
    by name. Until then the picture is not shown: the figure of the default values stands above.
    """

    def __init__(
        self, draw: Callable[..., Figure], controls: Mapping[str, Any], button: str | None = None
    ) -> None:
        if not controls:
            raise ValueError("a panel needs at least one control, as in steps=(100, 400, 100)")
        self.draw = draw
        self.controls: dict[str, Any] = {
            name: control(name, given) for name, given in controls.items()
        }
        self.picture = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self.text = widgets.HTML()
        parts: list[widgets.Widget] = list(self.controls.values())
        if button is None:
            for part in parts:
                part.observe(self.redraw, names="value")
        else:
            self.button = widgets.Button(description=button)
            self.button.on_click(self.redraw)
            parts.append(self.button)
        self.widget = widgets.VBox([*parts, self.text, self.picture])

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say now, by name."""
        return {name: part.value for name, part in self.controls.items()}

    def redraw(self, _: object = None) -> None:
        """Draw the figure of the present values; an error is told in the line of text."""
        values = self.values
        told = html.escape(", ".join(f"{name} = {value}" for name, value in values.items()))
        self.text.value = f"Drawing: {told} ..."
        try:
            self.picture.value = png(self.draw(**values))
        except Exception as error:  # a front end does not show what a callback raises
            self.text.value = html.escape(f"It stopped with {type(error).__name__}: {error}")
            return
        self.picture.layout.display = None
        self.text.value = told


def panel(
    draw: Callable[..., Figure], *, alt: str, button: str | None = None, **controls: Any
) -> None:
    """Show the figure of the default values as `show` does, then controls that redraw it.

    ``draw(**values)`` returns a figure. A control is ``(min, max, step)`` or ``(min, max, step,
    default)``, numbers, the default being ``min``; a list of choices, the default being the first;
    or a widget with a value. ``alt`` describes the figure of the defaults. With a ``button``
    (its label) the figure is drawn on a click and not on every change: for what takes seconds.

    Raises:
        ValueError: for a control that is none of these; the message names it.
    """
    live = Panel(draw, controls, button)
    show(draw(**live.values), alt)
    text = f"Run this cell in Jupyter or Colab to choose {', '.join(controls)}."
    view = {"version_major": 2, "version_minor": 0, "model_id": live.widget.model_id}
    display({VIEW: view, "text/plain": text}, raw=True)


def control(name: str, given: Any) -> widgets.Widget:
    """The widget for one control of `panel`."""
    if isinstance(given, widgets.Widget):
        if not given.has_trait("value"):
            raise ValueError(f"control {name}={type(given).__name__}: this widget has no value")
        return given
    look: dict[str, Any] = {"description": name, "style": {"description_width": "initial"}}
    if isinstance(given, list) and given:
        return widgets.Dropdown(options=given, **look)
    if not isinstance(given, tuple) or len(given) not in (3, 4):
        raise ValueError(
            f"control {name}={given!r}: use (min, max, step), (min, max, step, default), a list "
            "of choices or a widget"
        )
    low, high, step, value = (*given, given[0])[:4]
    if not (low < high and step > 0 and low <= value <= high):
        raise ValueError(f"control {name}={given!r}: needs min <= default <= max and step > 0")
    kind = widgets.IntSlider if all(isinstance(x, int) for x in given) else widgets.FloatSlider
    return kind(min=low, max=high, step=step, value=value, continuous_update=False, **look)
