"""Exercises of chapter 10: targets by hand, and three suspects."""

from __future__ import annotations

from functools import partial

from meanflow_lite.identity import TANGENTS, total_derivative
from meanflow_lite.notebook.bugs import CATALOG
from meanflow_lite.notebook.exercises import exercise
from meanflow_lite.objectives import MeanFlow
from meanflow_lite.paths import Below, Uniform

_SETTINGS = {"p": 0.0, "p_equal": 0.25, "pair": Below(Uniform())}


#: One mistake of the catalog each; the reader finds out which.
SUSPECTS: dict[int, MeanFlow] = {
    1: type(CATALOG["wrong sign"].broken)(**_SETTINGS),
    2: MeanFlow(**_SETTINGS, stop_gradient=False),
    3: MeanFlow(**_SETTINGS, derivative=partial(total_derivative, tangent=TANGENTS["v10"])),
}


exercise(
    "10-multiples",
    use=lambda answer: [float(number) for number in answer],
    right=(1.0, 0.0),
    mistakes={
        "The sign has nothing to act on: du/dt is zero for data in one point.": (2.0, 0.0),
        "E's derivative is (du/dz) v = u / t, and t times it is taken off v = u.": (1.0, 1.0),
        "The two are exchanged.": (0.0, 1.0),
        "The second target is v minus (t - r) du/dt, with a minus.": (1.0, 2.0),
    },
    praise="Right: a sign error does not show here at all, so one easy data set is not enough.",
    hint="Here v = u = (z - m) / t, so (du/dz) v = u / t and the total derivative is zero.",
)


exercise(
    "10-suspects",
    right=("sign", "stop-gradient", "tangent order"),
    mistakes={
        "One and three are exchanged: the order moves the 1 from t to r, the sign turns all of "
        "them.": ("tangent order", "stop-gradient", "sign"),
        "Three sees the moving state (1 for u = z), so it is not the partial derivative.": (
            "sign",
            "stop-gradient",
            "partial derivative",
        ),
        "One and two are exchanged: only two has a target that carries a gradient.": (
            "stop-gradient",
            "sign",
            "tangent order",
        ),
    },
    praise="Right: minus signs throughout, a gradient in the target, and a 1 at r.",
    hint="The right objective probes as (1, 0, 1, no gradient): compare entry by entry.",
)
