"""Do an objective, a network and the data fit together? Asked once, before the first step.

Each setting is right by itself; it is their combination that trains something else without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meanflow_lite.domains import INSTANT, layers
from meanflow_lite.guidance import LabelDropout, check_null


def null_of(guidance: Any, dropout: LabelDropout | None) -> int | None:
    """The null label of an objective: that of its guidance and of its label dropout.

    Raises:
        ValueError: if the two differ.
    """
    if guidance is not None and dropout is not None and guidance.null != dropout.null:
        raise ValueError(
            f"two null labels: guidance has {guidance.null} and label dropout {dropout.null}; both "
            "are the number of classes"
        )
    return next((each.null for each in (guidance, dropout) if each is not None), None)


def check_fit(objective: Any, net: Callable[..., Any], labelled: bool | None = None) -> None:
    """Raise ``ValueError`` if an objective cannot be right on a network and its data.

    ``labelled`` says whether the data has labels, if that is known. Asked are: one null label,
    which is the network's and is trained; labels where guidance or dropout needs them; a network
    that is told r where the objective trains jumps.
    """
    for part in getattr(objective, "phases", (objective,)):
        guidance, dropout = getattr(part, "guidance", None), getattr(part, "dropout", None)
        null = null_of(guidance, dropout)
        if guidance is not None and (dropout is None or dropout.rate == 0):
            raise ValueError(
                f"guidance uses the null label {null}, which no row of this training has: give "
                f"the objective dropout=LabelDropout({null}, 0.1)"
            )
        if null is not None:
            check_null(null, net)
            if labelled is False:
                raise ValueError("guidance and label dropout need labels y: the data has none")
        if part.domain != INSTANT and not all(getattr(at, "knows_r", True) for at in layers(net)):
            raise ValueError(
                f"{type(part).__name__} trains jumps from t to r, and this network is not told r: "
                "use flow_matching, or give the network another input"
            )
