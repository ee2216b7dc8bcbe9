"""The methods of the bench: how each is built from a law of times and a setting of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controls import DistributionMatching, EnergyGenerator, PlainGan, Reflow
from stacked import EachSeed, Stack
from torch import nn

from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.objectives import (
    AdversarialDistillation,
    AlphaFlow,
    Consistency,
    Drifting,
    FlowMatching,
    ImprovedMeanFlow,
    LagrangianSelfDistillation,
    MeanFlow,
    Objective,
    ProgressiveDistillation,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
)
from meanflow_lite.objectives.schedules import Doubling, Sigmoid
from meanflow_lite.paths import Below, LogitNormal, TimeLaw, Uniform

RATES = (1e-3, 3e-3, 1e-2)
LAWS: dict[str, TimeLaw] = {"uniform": Uniform(), "logit-normal": LogitNormal()}
Knob = Mapping[str, Any]


@dataclass(frozen=True)
class Build:
    """What a recipe is given: the law of times, the size of a row and how many seeds there are."""

    law: TimeLaw
    dim: int
    seeds: int

    @property
    def pair(self) -> Below:
        """Draw t from the law, r uniformly below it."""
        return Below(self.law)

    def nets(self, make: Callable[[], nn.Module]) -> Any:
        """One network of its own for each seed, or a plain one where nothing is stacked."""
        return Stack([make() for _ in range(self.seeds)]) if self.seeds else make()

    def alone(self, objective: Objective) -> Objective:
        """For losses that compare the rows of a batch."""
        return EachSeed(objective, self.seeds) if self.seeds else objective


@dataclass(frozen=True)
class Recipe:
    """``flow_map``: it aims at the exact u, so it has an exact error. ``knobs``: values of its own
    setting, the first one the default. ``law``: whether it draws times. ``judged``: evaluations
    at which its settings are chosen.
    """

    objective: Callable[[Build, Knob], Any]
    knobs: tuple[Knob, ...] = ({},)
    flow_map: bool = True
    teacher: bool = False
    law: bool = True
    judged: int = 1
    note: str = field(default="", compare=False)


# p = 0 throughout: an adaptive weight moves the minimizer in few dimensions.
METHODS: dict[str, Recipe] = {
    "flow_matching": Recipe(lambda b, k: FlowMatching(b.law), judged=64),
    "meanflow": Recipe(
        lambda b, k: MeanFlow(b.pair, p=0.0, **k), ({"p_equal": 0.5}, {"p_equal": 0.75})
    ),
    "improved_meanflow": Recipe(
        lambda b, k: ImprovedMeanFlow(b.pair, p=0.0, **k), ({"p_equal": 0.5}, {"p_equal": 0.75})
    ),
    "alphaflow": Recipe(
        lambda b, k: AlphaFlow(Sigmoid(0.0, k["end"]), b.pair, p_equal=0.5, p=0.0),
        ({"end": 1.0}, {"end": 0.5}, {"end": 0.25}),
    ),
    "splitmeanflow": Recipe(
        lambda b, k: SplitMeanFlow(b.pair, **k), ({"p_equal": 0.5}, {"p_equal": 0.75})
    ),
    "shortcut": Recipe(
        lambda b, k: Shortcut(target_ema=0.99, **k),
        ({"p_base": 0.875}, {"p_base": 0.75}, {"p_base": 0.5}),
        law=False,
    ),
    "consistency": Recipe(
        lambda b, k: Consistency(Doubling(8, k["last"]), b.law), ({"last": 1024}, {"last": 64})
    ),
    "consistency_continuous": Recipe(lambda b, k: Consistency(steps=None, law=b.law)),
    "terminal_velocity": Recipe(
        lambda b, k: TerminalVelocity(b.pair, b.law, **k),
        ({"target_ema": 0.99}, {"target_ema": 0.9}),
    ),
    "lagrangian": Recipe(
        lambda b, k: LagrangianSelfDistillation(b.pair, **k), ({"p_equal": 0.75}, {"p_equal": 0.5})
    ),
    "drifting": Recipe(
        lambda b, k: b.alone(Drifting(tuple(k["radii"]))),
        ({"radii": [0.02, 0.05, 0.2]}, {"radii": [0.05, 0.2, 1.0]}, {"radii": [0.2]}),
        flow_map=False,
        law=False,
    ),
    "progressive_distillation": Recipe(
        lambda b, k: ProgressiveDistillation(**k),
        ({"halvings": 5}, {"halvings": 7}),
        teacher=True,
        law=False,
    ),
    "adversarial_distillation": Recipe(
        lambda b, k: AdversarialDistillation(b.nets(lambda: MLPDiscriminator(b.dim)), **k),
        (
            {"distill": 2.5},
            {"distill": 0.5},
            {"distill": 2.5, "lr_scale": 3.0},
            {"distill": 0.5, "lr_scale": 3.0},
        ),
        flow_map=False,
        teacher=True,
        law=False,
    ),
    "distribution_matching": Recipe(
        lambda b, k: DistributionMatching(b.nets(lambda: MLP(b.dim, 64, 3)), **k),
        ({"lr_scale": 1.0}, {"lr_scale": 3.0}),
        flow_map=False,
        teacher=True,
        law=False,
    ),
    "reflow": Recipe(lambda b, k: Reflow(b.law), flow_map=False, teacher=True),
    "plain_gan": Recipe(
        lambda b, k: PlainGan(b.nets(lambda: MLPDiscriminator(b.dim)), **k),
        (
            {"lr_scale": 1.0, "penalty": 0.1},
            {"lr_scale": 3.0, "penalty": 0.1},
            {"lr_scale": 1.0, "penalty": 1.0},
            {"lr_scale": 3.0, "penalty": 1.0},
        ),
        flow_map=False,
        law=False,
    ),
    "energy_generator": Recipe(lambda b, k: b.alone(EnergyGenerator()), flow_map=False, law=False),
}
#: Rows that train nothing: fresh samples of the data, a Gaussian of its moments, and the noise.
CONTROLS = ("perfect", "moments", "noise")
#: Published names of what stands in the table.
LABELS = {
    "flow_matching": "flow matching",
    "flow_matching_heun": "flow matching, Heun's steps",
    "meanflow": "MeanFlow",
    "improved_meanflow": "improved MeanFlow",
    "alphaflow": "AlphaFlow",
    "splitmeanflow": "SplitMeanFlow",
    "shortcut": "Shortcut",
    "consistency": "consistency training",
    "consistency_continuous": "consistency, its limit",
    "terminal_velocity": "TVM",
    "lagrangian": "Lagrangian self-distillation",
    "drifting": "Drifting",
    "progressive_distillation": "progressive distillation",
    "adversarial_distillation": "ADD-style",
    "distribution_matching": "DMD",
    "reflow": "one round of reflow",
    "plain_gan": "plain GAN",
    "energy_generator": "trained on the judge",
    "perfect": "a perfect generator",
    "moments": "a Gaussian of the data's moments",
    "noise": "the noise, untouched",
}
