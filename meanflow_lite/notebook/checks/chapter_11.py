"""Exercises of chapter 11: the constant of the weight, what the weight learns, three logs."""

from __future__ import annotations

from meanflow_lite.notebook.exercises import exercise

exercise(
    "11-constant",
    use=lambda answer: float(answer),
    right=0.01,
    mistakes={
        "The row with the smallest error decides: 0.5 / (0.5 + 0.1) is five sixths.": 0.1,
        "That is enough, and a larger power of ten is too.": 0.001,
        "That is the bound; the largest power of ten below it is asked for.": 0.5 / 0.95 - 0.5,
        "With c = 1 the smallest row prints one third.": 1.0,
    },
    praise="Right: 0.5 / 0.51 is more than 0.98, and with ten times as much it is 0.83.",
    tolerance=1e-4,
    hint="A row prints l / (l + c): which row is the first to fall below 0.95?",
)


exercise(
    "11-two-values",
    right=(0.4, 0.0),
    tolerance=1e-3,
    mistakes={
        "Both are the mean here. With p = 1/2 the loss is E|v - m|, whose minimizer is a median.": (
            0.4,
            0.4,
        ),
        "The two are exchanged: p = 0 is the squared error, so it learns the mean.": (0.0, 0.4),
        "The mean of zero and one with probabilities 3/5 and 2/5 is 0.4; the second is right.": (
            0.5,
            0.0,
        ),
    },
    praise="Right: the mean, and the median, which is the more likely value.",
    hint="Minimize 0.6 |m| + 0.4 |1 - m| for the second.",
)


exercise(
    "11-logs",
    use=lambda names: [str(dict(names)[k]).strip().lower() for k in "ABC"],
    right={"A": "frozen", "B": "explodes", "C": "learns"},
    mistakes={
        "A's error does not move at all between the first update and the last: it is frozen.": {
            "A": "learns",
            "B": "explodes",
            "C": "frozen",
        },
        "B's error grows far beyond where it started: nothing is learned there.": {
            "A": "frozen",
            "B": "learns",
            "C": "explodes",
        },
        "A and B are exchanged: an error that grows explodes, one that stays is frozen.": {
            "A": "explodes",
            "B": "frozen",
            "C": "learns",
        },
    },
    praise="Right: the printed loss is the same for all three, the unweighted error is not.",
    hint="Compare the first and the last unweighted error of each run.",
)
