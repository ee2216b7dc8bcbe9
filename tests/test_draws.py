"""What every objective draws and hands on: labels to every network, dropout, laws of times."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from scipy import stats
from test_objectives_interface import CLASSES, make, network

from meanflow_lite.guidance import LabelDropout
from meanflow_lite.networks.mlp import MLPDiscriminator
from meanflow_lite.objectives import (
    JOINT,
    OBJECTIVES,
    TEACHER,
    AdversarialDistillation,
    Consistency,
    Context,
    FlowMatching,
    ImprovedMeanFlow,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
    TerminalVelocity,
)
from meanflow_lite.objectives.schedules import Doubling
from meanflow_lite.paths import Below, LogitNormal, Uniform
from meanflow_lite.randomness import Random

N, DIM = 20_000, 3
#: settings that ask a network which the defaults do not ask, beside every name
MORE = {
    "meanflow, own velocity": MeanFlow(target_velocity=JOINT, tangent_velocity=JOINT),
    "meanflow, teacher": MeanFlow(target_velocity=TEACHER, tangent_velocity=TEACHER),
    "improved_meanflow, teacher": ImprovedMeanFlow(tangent_velocity=TEACHER),
    "consistency, continuous": Consistency(steps=None),
    "terminal_velocity, uniform": TerminalVelocity(Below(Uniform()), Uniform()),
}
ASKED = {
    "shortcut": {"u", "u_ema"},
    "terminal_velocity": {"u", "u_ema"},
    "progressive_distillation": {"u", "teacher"},
    "adversarial_distillation": {"u", "teacher"},
    "meanflow, teacher": {"u", "teacher"},
    "improved_meanflow, teacher": {"u", "teacher"},
    "terminal_velocity, uniform": {"u", "u_ema"},
}


def context(progress=0.0, u_ema=None, teacher=None) -> Context:
    return Context(u_ema or network(DIM), teacher, torch.tensor(progress), Random(3))


class Spy:
    """A network that keeps where it was asked and under which labels."""

    def __init__(self, net) -> None:
        self.net, self.asked = net, []

    def __call__(self, z, r, t, y=None):
        self.asked.append(y)
        return self.net(z, r, t, y)


def told(objective, y) -> tuple[dict[str, Spy], torch.Tensor]:
    """The spies of one evaluation of a loss, and the labels of its draws."""
    spies = {name: Spy(network(DIM)) for name in ("u", "u_ema", "teacher")}
    ctx = context(0.4, u_ema=spies["u_ema"], teacher=spies["teacher"])
    draw = objective.draw(torch.randn(len(y), DIM), y, ctx)
    objective(spies["u"], draw, replace(ctx, random=None))
    return spies, draw.y


def kind(name: str):
    return MORE[name] if name in MORE else make(name, DIM)


@pytest.mark.parametrize("name", [*OBJECTIVES, *MORE])
def test_every_network_is_asked_under_the_labels_of_its_rows(name):
    """Rows are handed out in runs (the last ones are jumps), each with the labels it was drawn."""
    y = torch.randperm(48, generator=torch.Generator().manual_seed(1)) % CLASSES
    spies, drawn = told(kind(name), y)
    assert torch.equal(drawn, y)
    assert {key for key, spy in spies.items() if spy.asked} == ASKED.get(name, {"u"})
    for spy in spies.values():
        for seen in spy.asked:
            assert seen is not None
            starts = range(len(y) - len(seen) + 1)
            assert any(torch.equal(seen, y[at : at + len(seen)]) for at in starts)
            assert len(seen) in {48, 48 - _plain(name), _plain(name)}


def _plain(name: str) -> int:
    objective = kind(name)
    return objective.draw(torch.zeros(48, DIM), torch.zeros(48).long(), context(0.4)).n_equal


@pytest.mark.parametrize("name", OBJECTIVES)
def test_dropout_of_every_label_leaves_the_null_label_alone(name):
    objective = make(name, DIM)
    if not is_dataclass(objective) or "dropout" not in {f.name for f in fields(objective)}:
        assert name in {"drifting", "adversarial_distillation"}, "a class lost its label dropout"
        return
    y = torch.arange(64) % CLASSES
    x, ctx = torch.zeros(64, DIM), context()
    for rate, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        dropped = replace(objective, dropout=LabelDropout(CLASSES, rate)).draw(x, y, ctx).y
        assert abs(float((dropped == CLASSES).float().mean()) - share) <= 0.25 * (0 < rate < 1)
        kept = dropped != CLASSES
        assert torch.equal(dropped[kept], y[kept])


def uniform_on(values, expected) -> float:
    """p-value of a chi-square test that each expected value is drawn equally often."""
    found, counts = torch.as_tensor(values).unique(return_counts=True)
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype))
    return float(stats.chisquare(counts.numpy()).pvalue)


@pytest.mark.parametrize("levels", [3, 7])
def test_shortcut_draws_every_level_evenly_and_its_times_on_the_grid_of_the_level(levels):
    draw = Shortcut(levels).draw(torch.zeros(N, 1), None, context())
    base, boot = draw.split()
    assert len(base.x) == round(0.875 * N)
    assert (base.t - base.r == 2.0**-levels).all(), "the finest level is that of flow matching"
    level = -(boot.t - boot.r).log2()
    assert uniform_on(level, range(levels)) > 1e-3
    for k in range(levels):
        rows = boot.t[level == k]
        assert torch.equal(rows * 2**k, (rows * 2**k).round()) and rows.max() == 1
        if k:
            assert uniform_on(rows, torch.arange(1, 2**k + 1) / 2**k) > 1e-3
    assert uniform_on(base.t, torch.arange(1, 2**levels + 1) / 2**levels) > 1e-3


@pytest.mark.parametrize(("progress", "steps"), [(0.0, 4), (0.4, 8), (0.9, 16)])
def test_consistency_draws_the_law_rounded_up_to_a_grid_that_ends_at_one(progress, steps):
    kinds = Consistency(Doubling(4, 16), Uniform()), Consistency(Doubling(4, 16), LogitNormal())
    for objective in kinds:
        draw = objective.draw(torch.zeros(N, 1), None, context(progress))
        found, counts = draw.t.unique(return_counts=True)
        torch.testing.assert_close(found, torch.arange(1, steps + 1) / steps)
        torch.testing.assert_close(draw.extra["s"], draw.t - 1 / steps)
        assert (draw.r == 0).all() and draw.extra["s"].min() == 0 and draw.t.max() == 1
        law = stats.norm(-0.4, 1.0)
        edges = torch.arange(steps + 1).double() / steps
        share = edges.diff() if objective is kinds[0] else _logit(law, edges)
        assert stats.chisquare(counts.numpy(), (N * share).numpy()).pvalue > 1e-3


def _logit(law, edges):
    return torch.from_numpy(law.cdf(torch.logit(edges).numpy())).diff()


@pytest.mark.parametrize("times", [(0.25, 0.5, 0.75, 1.0), (0.1, 1.0), (1.0,)])
def test_adversarial_distillation_draws_its_times_evenly_and_the_teachers_apart(times):
    objective = AdversarialDistillation(MLPDiscriminator(1, 8), times=times)
    draw = objective.draw(torch.zeros(N, 1), None, context())
    if len(times) > 1:
        assert uniform_on(draw.t, times) > 1e-3
    assert (draw.r == 0).all() and draw.t.max() == 1
    s, noise = draw.extra["s"], draw.extra["noise"][:, 0]
    assert stats.kstest(s.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    pairs = torch.stack([draw.t + 1e-3 * torch.randn(N), s, noise, draw.eps[:, 0]])
    assert (torch.corrcoef(pairs) - torch.eye(4)).abs().max() < 0.03


@pytest.mark.parametrize("law", [Uniform(), LogitNormal()])
def test_below_draws_r_as_a_uniform_share_of_t(law):
    ctx = context()
    r, t = Below(law)(lambda law, stream: ctx.time(law, torch.empty(N, 1), stream))
    share = (r / t).double()
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([share, t.double()]))[0, 1])) < 0.03
    plain = FlowMatching(law).draw(torch.empty(N, 1), None, ctx)
    assert torch.equal(t, plain.t), "t itself has its law: the stream of flow matching"


@pytest.mark.parametrize(("progress", "stage"), [(0.0, 0), (0.3, 1), (0.6, 2), (1.0, 3)])
def test_progressive_distillation_halves_its_grid_and_asks_the_first_teacher_at_rest(
    progress, stage
):
    objective = ProgressiveDistillation(4)
    draw = objective.draw(torch.zeros(N, 1), None, context(progress))
    n = 2 ** (3 - stage)
    assert objective.stage(progress) == stage
    if n > 1:
        assert uniform_on(draw.t, torch.arange(1, n + 1) / n) > 1e-3
    torch.testing.assert_close(draw.t - draw.r, torch.full_like(draw.t, 1 / n))
    middle = draw.extra["middle"]
    torch.testing.assert_close(middle, (draw.t + draw.r) / 2)
    ends = (draw.t, middle) if stage == 0 else (middle, draw.r)
    assert torch.equal(draw.extra["ends"], torch.stack(ends, 1))
