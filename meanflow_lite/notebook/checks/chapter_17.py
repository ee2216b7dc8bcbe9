"""Exercises of chapter 17: a scale on top of a scale."""

from __future__ import annotations

from meanflow_lite.notebook.exercises import exercise

exercise(
    "17-walk",
    right=3.0,
    mistakes={
        "The scales do not add: put the guided velocity into the second mix and collect.": (3.5),
        "Only the one-step map is fixed; at r = t the mix on top does act.": 2.0,
        "The first scale is still inside the field that is mixed.": 1.5,
        "Scales above one, not weights of the push on top of one: 1.5 times 2.": 2.5,
    },
    praise="Right: at r = t scales multiply.",
    hint="Write the guided velocity as v_null + 2 (v_y - v_null) and mix it with v_null again.",
)
