"""Which losses are at rest at the exact average velocity: a theorem a line, and its controls.

The statistic is the worst expected gradient along six test functions, in standard errors. On
N(0, 2^2) everything is cheap, but pushing eps - x through the field costs only Euler's error;
mixture A shows that bias.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from meanflow_lite.data.toys import gaussian, mixture_a, product
from meanflow_lite.evaluation.fixed_point import PushedMap, gradient_at
from meanflow_lite.fields import GaussianMixture, Guided, instantaneous
from meanflow_lite.guidance import Guidance
from meanflow_lite.identity import (
    TANGENTS,
    end_derivative,
    finite_difference,
    total_derivative,
)
from meanflow_lite.losses import squared_error
from meanflow_lite.notebook.bugs import CATALOG, EulerMap
from meanflow_lite.objectives import (
    CONDITIONAL,
    JOINT,
    TEACHER,
    AlphaFlow,
    Consistency,
    FlowMatching,
    ImprovedMeanFlow,
    LagrangianSelfDistillation,
    MeanFlow,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
    exact,
)
from meanflow_lite.objectives.schedules import Constant, Doubling
from meanflow_lite.paths import Below, Separate, ToData, Uniform, bcast

RIGHT, WRONG = 4.0, 6.0
MEANFLOW = MeanFlow(p=0.0, p_equal=0.25)
MARGINAL = exact(lambda z, t, y: gaussian().velocity(z, t))

AT_REST = {
    "flow matching": FlowMatching(),
    "meanflow, conditional velocity": MEANFLOW,
    "meanflow, joint velocity": replace(MEANFLOW, target_velocity=JOINT, tangent_velocity=JOINT),
    "meanflow, teacher": replace(MEANFLOW, target_velocity=TEACHER, tangent_velocity=TEACHER),
    "meanflow, marginal velocity": replace(
        MEANFLOW, target_velocity=MARGINAL, tangent_velocity=MARGINAL
    ),
    "meanflow, marginal tangent only": replace(MEANFLOW, tangent_velocity=MARGINAL),
    "meanflow, second time below the first": replace(MEANFLOW, pair=Below()),
    "meanflow, separate laws": replace(MEANFLOW, pair=Separate()),
    "meanflow, r = 0": replace(MEANFLOW, pair=ToData()),
    "meanflow, no rows with r = t": replace(MEANFLOW, p_equal=0.0),
    "improved meanflow": ImprovedMeanFlow(p=0.0),
    "improved meanflow, conditional": ImprovedMeanFlow(p=0.0, tangent_velocity=CONDITIONAL),
    "alphaflow at alpha = 0": AlphaFlow(Constant(0.0), p=0.0),
    "splitmeanflow": SplitMeanFlow(),
    "splitmeanflow, jumps only": SplitMeanFlow(p_equal=0.0),
    "terminal velocity": TerminalVelocity(),
    "terminal velocity, detached derivative": TerminalVelocity(through_derivative=False),
    "consistency, continuous": Consistency(steps=None),
    "lagrangian self-distillation": LagrangianSelfDistillation(),
    "lagrangian, gradient into the target": LagrangianSelfDistillation(stop_gradient=False),
}


class _EulerianSign(LagrangianSelfDistillation):
    """u + (t - r) du/dr: the sign that the Eulerian rule has in front of its derivative."""

    def jump_error(self, u, rows):
        z, gap = rows.z, bcast(rows.t - rows.r, rows.z)
        value, slope = end_derivative(u, z, rows.r, rows.t, rows.y)
        target = u(z - gap * value, rows.r, rows.r, rows.y).detach()
        return squared_error(value + gap * slope, target)


NOT_AT_REST = {
    **{
        f"meanflow, tangent {name}": replace(
            MEANFLOW, derivative=partial(total_derivative, tangent=TANGENTS[name])
        )
        for name in ("v00", "v10", "v11", "001")
    },
    "meanflow, missing stop-gradient": replace(MEANFLOW, stop_gradient=False),
    "splitmeanflow, weights swapped": CATALOG["splitmeanflow: weights swapped"].broken,
    "terminal velocity, wrong sign": CATALOG["terminal velocity: sign"].broken,
    "lagrangian, wrong sign": _EulerianSign(),
    "meanflow, wrong sign": CATALOG["wrong sign"].broken,
    "consistency, eight steps": Consistency(Doubling(8, 8), Uniform()),
    "alphaflow at alpha = 1/2": AlphaFlow(Constant(0.5), p=0.0),
}


def score(objective, data, **options) -> float:
    return gradient_at(objective, data.average, data, **options).worst


@pytest.mark.parametrize("name", AT_REST)
def test_exact_u_is_a_fixed_point(name):
    assert score(AT_REST[name], gaussian()) < RIGHT


@pytest.mark.parametrize("name", NOT_AT_REST)
def test_exact_u_is_no_fixed_point(name):
    assert score(NOT_AT_REST[name], gaussian(), batches=8) > WRONG


def test_another_field_is_no_fixed_point_of_the_right_loss():
    data = gaussian()
    assert gradient_at(MEANFLOW, instantaneous(data.velocity), data).worst > WRONG


def test_missing_stop_gradient_is_harmless_with_the_marginal_velocity():
    free = replace(MEANFLOW, stop_gradient=False)
    assert score(free, gaussian()) > WRONG
    marginal = replace(free, target_velocity=MARGINAL, tangent_velocity=MARGINAL)
    assert score(marginal, gaussian()) < RIGHT


@pytest.mark.parametrize("data", [mixture_a(), product()], ids=["mixture", "product"])
def test_the_conditional_velocity_is_right_on_mixtures_too(data):
    assert score(replace(MEANFLOW, pair=ToData()), data, batches=1) < RIGHT


def test_finite_differences_are_right_along_the_marginal_velocity_only():
    """Differences push the velocity through the field, which is not affine on a mixture."""
    data = mixture_a()
    coarse = replace(
        MEANFLOW,
        pair=ToData(Uniform()),
        p_equal=0.0,
        derivative=partial(finite_difference, step=0.2, order=1),
    )
    assert score(coarse, data) > WRONG
    marginal = exact(lambda z, t, y: data.velocity(z, t))
    along = replace(coarse, target_velocity=marginal, tangent_velocity=marginal)
    fine = replace(along, derivative=partial(finite_difference, step=1e-3, order=2))
    biased, unbiased = (gradient_at(o, data.average, data, batches=2) for o in (along, fine))
    assert unbiased.mean.abs().max() < 1e-3 * biased.mean.abs().max()


def test_an_adaptive_weight_moves_the_fixed_point_on_a_skewed_mixture():
    objective = replace(MEANFLOW, pair=ToData(Uniform()), p_equal=0.0)
    assert score(objective, mixture_a()) < RIGHT
    assert score(replace(objective, p=0.5), mixture_a()) > WRONG


def test_guided_meanflow_is_at_rest_at_the_guided_average():
    """Scale omega / (1 - kappa) = 2, reached with and without kappa; other scales are not."""
    data = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.7, 0.7], labels=[0, 1], steps=2)
    guided = Guided(data, 2.0)
    options = {"rows": 4096, "batches": 2}

    def objective(scale: float, kappa: float) -> MeanFlow:
        guidance = Guidance.effective(scale, null=2, kappa=kappa)
        return replace(MEANFLOW, guidance=guidance, p_equal=0.5)

    # Over both classes guidance averages out against test functions that do not see the label.
    mixed = partial(
        gradient_at, field=_labeled(data, guided), distribution=_FirstClass(data), **options
    )
    assert mixed(objective(2.0, 0.5)).worst < RIGHT
    assert mixed(objective(3.0, 0.5)).worst > WRONG


class _FirstClass:
    def __init__(self, data) -> None:
        self.data, self.num_classes = data, data.num_classes

    def sample(self, n, generator=None):
        x, y = self.data.sample(4 * n, generator)
        return x[y == 0][:n], y[y == 0][:n]


def _labeled(data, guided):
    """The guided average for a label, the plain one for the null label."""

    def u(z, r, t, y):
        null = bcast(y == data.num_classes, z)
        return torch.where(null, data.average(z, r, t), guided.average(z, r, t, y))

    return u


def test_shortcut_is_at_rest_at_eulers_map_and_not_at_the_flow():
    data = gaussian()
    objective = Shortcut(levels=3)
    assert gradient_at(objective, EulerMap(data.velocity, 8), data).worst < RIGHT
    assert gradient_at(objective, data.average, data).worst > WRONG


@pytest.mark.parametrize(
    ("objective", "times", "bias"),
    [
        (Consistency(Doubling(8, 8), Uniform()), [1 - k / 8 for k in range(9)], 0.433),
        (
            AlphaFlow(Constant(0.5), ToData(Uniform()), p_equal=0.0, p=0.0),
            [0.5**k for k in range(14)] + [0.0],
            0.955,
        ),
    ],
    ids=["consistency with 8 steps", "alphaflow at 1/2"],
)
def test_the_bias_of_pushed_velocities_is_the_predicted_one(objective, times, bias):
    """The predicted map is far from the flow, and the loss is at rest there and not at exact u."""
    data = mixture_a()
    z, one = torch.randn(4000, 1, dtype=torch.float64), torch.ones(4000, dtype=torch.float64)
    predicted = PushedMap(data, times)
    error = (predicted(z, 0 * one, one) - data.average(z, 0 * one, one)).square().mean().sqrt()
    torch.testing.assert_close(float(error), bias, atol=0.03, rtol=0.0)
    if isinstance(objective, AlphaFlow):
        objective = replace(objective, pair=ToData(_OnTimes(times[:8])))
    assert score(objective, data, rows=4096, batches=2) > WRONG
    assert gradient_at(objective, predicted, data).worst < RIGHT


class _OnTimes:
    def __init__(self, times) -> None:
        self.times = torch.tensor(times, dtype=torch.float64)

    def __call__(self, normal, uniform):
        return self.times[(uniform * len(self.times)).long()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["consistency", "alphaflow"])
def test_a_trained_network_lands_on_the_predicted_biased_point(name):
    from meanflow_lite.data.batches import FromDistribution
    from meanflow_lite.networks.mlp import MLP
    from meanflow_lite.training.loop import TrainConfig, train

    data = mixture_a()
    objective, times = {
        "consistency": (Consistency(Doubling(8, 8), Uniform()), [1 - k / 8 for k in range(9)]),
        "alphaflow": (
            AlphaFlow(Constant(0.5), ToData(Uniform()), p_equal=0.0, p=0.0),
            [0.5**k for k in range(14)] + [0.0],
        ),
    }[name]
    torch.manual_seed(0)
    config = TrainConfig(steps=1600, batch=256, lr=3e-3, cooldown=0.5)
    field, _ = train(MLP(1, 64, 3), objective, FromDistribution(data), config)
    z, one = torch.randn(4000, 1), torch.ones(4000)
    with torch.no_grad():
        made = field(z, 0 * one, one)
    predicted, flow = (u(z, 0 * one, one) for u in (PushedMap(data, times), data.average))
    to_predicted, to_flow = (float((made - u).square().mean().sqrt()) for u in (predicted, flow))
    assert to_predicted < 0.15 < 0.35 < to_flow
