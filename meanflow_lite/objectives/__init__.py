"""Training objectives, one short file a method, behind one interface.

``OBJECTIVES`` maps the name of a method to its class.
"""

from meanflow_lite.objectives.adversarial_distillation import AdversarialDistillation
from meanflow_lite.objectives.alphaflow import AlphaFlow
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
from meanflow_lite.objectives.consistency import Consistency
from meanflow_lite.objectives.drifting import Drifting
from meanflow_lite.objectives.flow_matching import FlowMatching
from meanflow_lite.objectives.improved_meanflow import ImprovedMeanFlow
from meanflow_lite.objectives.lagrangian import LagrangianSelfDistillation
from meanflow_lite.objectives.meanflow import MeanFlow
from meanflow_lite.objectives.progressive_distillation import ProgressiveDistillation
from meanflow_lite.objectives.shortcut import Shortcut
from meanflow_lite.objectives.splitmeanflow import SplitMeanFlow
from meanflow_lite.objectives.terminal_velocity import TerminalVelocity
from meanflow_lite.objectives.velocities import CONDITIONAL, JOINT, TEACHER, Velocity, exact
from meanflow_lite.randomness import Random

OBJECTIVES: dict[str, type] = {
    "flow_matching": FlowMatching,
    "meanflow": MeanFlow,
    "improved_meanflow": ImprovedMeanFlow,
    "alphaflow": AlphaFlow,
    "splitmeanflow": SplitMeanFlow,
    "shortcut": Shortcut,
    "consistency": Consistency,
    "terminal_velocity": TerminalVelocity,
    "lagrangian": LagrangianSelfDistillation,
    "drifting": Drifting,
    "progressive_distillation": ProgressiveDistillation,
    "adversarial_distillation": AdversarialDistillation,
}

__all__ = [
    "AdversarialDistillation",
    "AlphaFlow",
    "Consistency",
    "Drifting",
    "ImprovedMeanFlow",
    "LagrangianSelfDistillation",
    "ProgressiveDistillation",
    "Shortcut",
    "SplitMeanFlow",
    "TerminalVelocity",
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
    "Random",
    "Velocity",
    "domain_of",
    "dyadic",
    "exact",
    "trained",
]
