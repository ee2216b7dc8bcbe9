"""Guidance in training: the guided closed form is at rest, a planted error is not."""

import math
from dataclasses import replace

import pytest
import torch

from meanflow_lite.data.batches import FromDistribution
from meanflow_lite.fields import GaussianMixture, Guided
from meanflow_lite.guidance import Amplified, Guidance, LabelDropout, OwnGuidance, Scales
from meanflow_lite.networks.mlp import MLP
from meanflow_lite.objectives import (
    AlphaFlow,
    Context,
    ImprovedMeanFlow,
    MeanFlow,
    TerminalVelocity,
    exact,
)
from meanflow_lite.objectives.schedules import Constant
from meanflow_lite.paths import Below, Uniform, bcast
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import sample
from meanflow_lite.training import TrainConfig, train

NULL, SCALE = 2, 2.0
PAIR = Below(Uniform())
DROPOUT = LabelDropout(NULL, 0.25)
RANGE = (0.3, 0.7)


def mixture(dim: int) -> GaussianMixture:
    means = [[-1.0, 0.5, 0.0][:dim], [1.0, 0.0, -0.5][:dim]]
    return GaussianMixture([0.4, 0.6], means, [0.7, 0.9], labels=[0, 1], steps=2)


def guided_average(data, omega, where=(0.0, 1.0)):
    """The exact guided average for a label, the plain one for the null label."""

    def u(z, r, t, y):
        scale = omega if isinstance(omega, float) else omega[:, None]
        guided = Guided(data, scale, where).average(z, r, t, y)
        return torch.where(bcast(y == NULL, z), data.average(z, r, t), guided)

    return u


def told_average(data, factor):
    """iMF's oracle: guided by what it is told; ``factor`` is the planted error of the scale."""

    def u(z, r, t, y, omega, t_min, t_max):
        wide = guided_average(data, 1 + factor * (omega - 1))(z, r, t, y)
        if bool((t_min == 0).all() and (t_max == 1).all()):
            return wide
        cut = guided_average(data, 1 + factor * (omega - 1), RANGE)(z, r, t, y)
        return torch.where(bcast(t_min == 0, z), wide, cut)

    return u


def amplified_average(data, factor):
    """TVM's oracle: told 1 / omega, it returns the guided average over omega."""

    def u(z, r, t, y, inverse_omega):
        omega = 1 / inverse_omega
        guided = guided_average(data, 1 + factor * (omega - 1))(z, r, t, y)
        return guided / bcast(omega, z)

    return u


OWN = OwnGuidance(NULL, Scales(2.0, 4.0), (0.0, 0.0), (1.0, 1.0))
CUT = replace(OWN, t_min=(RANGE[0],) * 2, t_max=(RANGE[1],) * 2)
IMF = ImprovedMeanFlow(PAIR, p=0.0, dropout=DROPOUT)
FIXED = Guidance(NULL, SCALE)
CASES = {
    "MeanFlow": (
        MeanFlow(PAIR, 0.5, p=0.0, guidance=FIXED, dropout=DROPOUT),
        lambda data, factor: guided_average(data, 1 + factor * (SCALE - 1)),
    ),
    "AlphaFlow at 0": (
        AlphaFlow(Constant(0.0), PAIR, p=0.0, guidance=FIXED, dropout=DROPOUT),
        lambda data, factor: guided_average(data, 1 + factor * (SCALE - 1)),
    ),
    "iMF": (replace(IMF, guidance=OWN), told_average),
    "iMF in an interval": (replace(IMF, guidance=CUT), told_average),
    "TVM": (
        TerminalVelocity(
            PAIR,
            Uniform(),
            guidance=Guidance(NULL, scales=Scales(2.0, 4.0)),
            dropout=DROPOUT,
        ),
        amplified_average,
    ),
}


def bumps(z, r, t, y):
    """Functions that the field is bent by, ``[K, B, D]``: some of the label, some of the times."""
    a, c, first = t[:, None], (t - r)[:, None], (y == 0)[:, None].to(z)
    one = torch.ones_like(z)
    return torch.stack([first * one, first * z, first * a * one, first * c * z.sin(), z, c * one])


def worst(objective, data, oracle, seed, batches=12, rows=512):
    """Largest mean over its standard error among the gradients of the loss at the oracle."""
    gradients = []
    for k in range(batches):
        weights = torch.zeros(6, requires_grad=True)

        def bent(z, r, t, y, weights=weights, **cond):
            return oracle(z, r, t, y, **cond) + torch.einsum(
                "k,kbd->bd", weights, bumps(z, r, t, y)
            )

        def clean(z, r, t, y, **cond):
            return oracle(z, r, t, y, **cond)

        ctx = Context(clean, None, torch.tensor(0.5), Random(seed, k))
        x, y = data.sample(rows, torch.Generator().manual_seed(100 * seed + k))
        draw = objective.draw(x.double(), y, ctx)
        loss = objective(bent, draw, ctx).per_sample.mean()
        gradients.append(torch.autograd.grad(loss, weights)[0])
    g = torch.stack(gradients)
    return float((g.mean(0).abs() / (g.std(0) / math.sqrt(batches))).max())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if "interval" in n else n for n in CASES],
)
def test_the_guided_average_is_at_rest(name, seed, float64):
    objective, oracle = CASES[name]
    data = mixture(2)
    assert worst(objective, data, oracle(data, 1.0), seed) < 5
    assert worst(objective, data, oracle(data, 0.0), seed) > 6  # the unguided average is not


@pytest.mark.parametrize("alpha", [0.2, 0.1])
def test_alphaflow_is_guided_too_up_to_its_step(alpha, float64):
    """Along the exact velocity its target is off by a share alpha of the jump, and no more."""
    data = mixture(2)
    kind = AlphaFlow(Constant(alpha), PAIR, 0.0, p=0.0, velocity=exact(data.velocity))
    objective = replace(kind, guidance=FIXED, dropout=LabelDropout(NULL, 0.25))
    x, y = data.sample(256, torch.Generator().manual_seed(1))

    def defect(share, scale):
        oracle = guided_average(data, scale)
        ctx = Context(oracle, None, torch.tensor(0.5), Random(1))
        at = replace(objective, alpha=Constant(share))
        loss = at(oracle, at.draw(x.double(), y, ctx), ctx)
        return float((loss.per_sample / share).mean().sqrt())

    right = [defect(alpha / k, SCALE) for k in (1, 2)]
    assert 1.6 < right[0] / right[1] < 2.4
    wrong = [defect(alpha / k, 1.0) for k in (1, 2)]
    assert wrong[1] > 0.7 * wrong[0] and wrong[1] > 3 * right[1]


def test_conditions_are_drawn_in_their_ranges_and_told_by_kind_of_row():
    own = OwnGuidance(NULL)
    random = Random(0)
    told = own.conditions(lambda name: random.uniform(name, range(4000)), 1000)
    assert 1 <= told["omega"].min() < 1.1 and 7 < told["omega"].max() <= 8
    assert (told["t_min"][:1000] == 0).all() and (told["t_max"][:1000] == 1).all()
    for name, low in (("t_min", 0.0), ("t_max", 0.5)):
        rows = told[name][1000:]
        assert low <= rows.min() < low + 0.01 and low + 0.49 < rows.max() <= low + 0.5
    assert (
        abs(float(torch.corrcoef(torch.stack([told["t_min"], told["omega"]])[:, 1000:])[0, 1]))
        < 0.06
    )


@pytest.mark.parametrize("head", [False, True])
def test_improved_meanflow_trains_a_network_that_is_told_its_guidance(head):
    torch.manual_seed(0)
    data = mixture(2)
    net = MLP(2, 16, 2, num_classes=2, conditions=("omega", "t_min", "t_max"), velocity_head=head)
    objective = ImprovedMeanFlow(guidance=OWN, dropout=DROPOUT, auxiliary_head=head)
    before = {k: v.clone() for k, v in net.named_parameters()}
    train(net, objective, FromDistribution(data), TrainConfig(steps=4, batch=64))
    assert all((v != before[k]).any() for k, v in net.named_parameters())


def test_terminal_velocity_trains_a_network_that_is_told_its_scale():
    torch.manual_seed(0)
    data = mixture(2)
    net = MLP(2, 16, 2, num_classes=2, conditions=("inverse_omega",))
    objective = CASES["TVM"][0]
    field, _ = train(net, objective, FromDistribution(data), TrainConfig(steps=4, batch=64))
    eps, y = torch.randn(8, 2), [0, 1] * 4
    made = {w: sample(Amplified(field, w), eps, 1, y) for w in (1.0, 3.0)}
    assert not torch.equal(made[1.0], made[3.0])
    ctx = Context(net, None, torch.tensor(0.0), Random(1))
    draw = objective.draw(torch.randn(64, 2), torch.zeros(64).long(), ctx)
    dropped = draw.y == NULL
    assert dropped.any() and (draw.extra["omega"][dropped] == 1).all()
    assert (draw.extra["omega"][~dropped] > 1).all()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: AlphaFlow(guidance=Guidance(3, scales=Scales())), "one scale"),
        (lambda: TerminalVelocity(guidance=Guidance(3, 2.0)), "tells the network its scale"),
        (lambda: OwnGuidance(-1), "null label"),
        (lambda: OwnGuidance(3, t_min=(0.0, 0.8)), "t_min <= t_max"),
        (
            lambda: ImprovedMeanFlow(guidance=OWN, tangent_velocity=exact(lambda z, t, y: z)),
            "own velocity",
        ),
        (lambda: ImprovedMeanFlow(guidance=OWN, dropout=LabelDropout(3)), "two null labels"),
    ],
)
def test_guidance_that_cannot_be_right_is_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()
