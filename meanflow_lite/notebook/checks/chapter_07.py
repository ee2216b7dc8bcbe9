"""Exercises of chapter 07: three derivatives that were handed in."""

from __future__ import annotations

from meanflow_lite.notebook.exercises import exercise

exercise(
    "07-handed-in",
    right="Ben",
    mistakes={
        "Hers passes on N(0, 1) at (0, 1) and fails on three modes: she moves r in place of t.": (
            "Ada"
        ),
        "Hers passes on N(0, 1) at (0, 1) and fails on three modes: she holds z fixed.": "Cleo",
    },
    hint="Answer with one of the three names.",
    praise="Right: his alone leaves nothing on data with three modes.",
)
