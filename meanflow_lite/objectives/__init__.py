"""Training objectives, one short file a method, behind one interface.

``OBJECTIVES`` maps the name of a method to its class.
"""

from meanflow_lite.objectives.base import (
    ANY,
    INSTANT,
    ONE_JUMP,
    TO_DATA,
    Context,
    Domain,
    Draw,
    Loss,
    Objective,
    domain_of,
    dyadic,
    trained,
)
from meanflow_lite.objectives.flow_matching import FlowMatching
from meanflow_lite.objectives.meanflow import MeanFlow
from meanflow_lite.objectives.velocities import CONDITIONAL, JOINT, TEACHER, Velocity, exact

OBJECTIVES: dict[str, type] = {
    "flow_matching": FlowMatching,
    "meanflow": MeanFlow,
}

__all__ = [
    "ANY",
    "CONDITIONAL",
    "INSTANT",
    "JOINT",
    "OBJECTIVES",
    "ONE_JUMP",
    "TEACHER",
    "TO_DATA",
    "Context",
    "Domain",
    "Draw",
    "FlowMatching",
    "Loss",
    "MeanFlow",
    "Objective",
    "Velocity",
    "domain_of",
    "dyadic",
    "exact",
    "trained",
]
