"""Drifting as published: against a plain writing by class, its invariances, where it points."""

import math

import pytest
import torch

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import Context, Drifting
from meanflow_lite.objectives.drifting import drift
from meanflow_lite.objectives.forces import paired
from meanflow_lite.randomness import Random
from meanflow_lite.training import TrainConfig, train

SEEDS = range(8)


def draw_of(objective, x, y, seed=0):
    ctx = Context(lambda *a: a[0], None, torch.tensor(0.0), Random(seed))
    return objective.draw(x, y, ctx), ctx


def plain_force(made, data, y, real, radii, omega, floor):
    """The published force, class by class, one row and one target at a time."""
    n, dim = made.shape
    classes = sorted(set(y.tolist()))
    sets, total, weights = {}, 0.0, 0.0
    for c in classes:
        own = [i for i in range(n) if y[i] == c]
        targets = [(made[i], -1, 1.0, i) for i in own]
        if omega > 1:
            w = (omega - 1) * (len(own) - 1) / n
            targets += [(data[j], -1, w, None) for j in range(n)]
        targets += [(data[j], 1, 1.0, None) for j in range(n) if real[j] == c]
        sets[c] = own, targets
        for i in own:
            for point, _, w, _ in targets:
                total += w * (made[i] - point).norm()
                weights += w
    mean = total / weights
    sigma = mean / math.sqrt(dim)
    force = torch.zeros_like(made)
    for radius in radii:
        v = torch.zeros_like(made)
        for own, targets in sets.values():
            logit = torch.stack(
                [
                    torch.stack(
                        [
                            -(made[i] - p).norm() / mean / radius - (100 / radius) * (i == k)
                            for p, _, _, k in targets
                        ]
                    )
                    for i in own
                ]
            )
            k = (logit.softmax(1) * logit.softmax(0)).clamp(min=floor).sqrt()
            k = k * torch.tensor([w for _, _, w, _ in targets])
            sign = torch.tensor([s for _, s, _, _ in targets])
            points = torch.stack([p for p, *_ in targets]) / sigma
            for row, i in enumerate(own):
                pull, push = k[row] * (sign > 0), k[row] * (sign < 0)
                v[i] = push.sum() * (pull @ points) - pull.sum() * (push @ points)
        force += v / v.square().mean().clamp(min=1e-8).sqrt()
    return force, sigma


def placed(points):
    """A field whose one-step samples are ``points``."""
    return lambda z, r, t, y=None: z - points


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("classes", "omega"), [(1, 1.0), (3, 1.0), (3, 2.5), (9, 1.5)])
def test_the_force_is_the_published_one(seed, classes, omega, float64):
    objective = Drifting(omega=omega)
    torch.manual_seed(seed)
    x, y = 3 * torch.randn(12, 2, 2) + 1, torch.randint(classes, (12,))
    made = torch.randn(12, 2, 2, requires_grad=True)
    draw, ctx = draw_of(objective, x, y, seed)
    y = paired(real := y)
    flat = (made.detach().flatten(1), x.flatten(1))
    force, sigma = plain_force(*flat, y, real, objective.radii, omega, objective.floor)
    loss = objective(placed(made), draw, ctx)
    torch.testing.assert_close(loss.per_sample.detach(), force.square().mean(1))
    (gradient,) = torch.autograd.grad(loss.per_sample.sum(), made)
    torch.testing.assert_close(gradient.flatten(1), -2 * force / sigma / 4)
    # the controls: neither the floor nor the weight of the guidance is without effect
    other = plain_force(*flat, y, real, objective.radii, omega + 0.5, 1e-3)[0]
    assert not torch.allclose(other, force, rtol=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dim", [1, 2, 64, 4096])
def test_every_row_is_moved_whatever_the_scale_and_the_classes(seed, dim, float64):
    torch.manual_seed(seed)
    x, made, y = torch.randn(64, dim), torch.randn(64, dim), torch.randint(1000, (64,))
    objective = Drifting()
    draw, ctx = draw_of(objective, x, y, seed)
    loss = objective(placed(made), draw, ctx).per_sample
    assert (loss > 1e-12).all() and 0.1 < loss.mean() < len(objective.radii) ** 2 + 1e-3
    bigger = objective(placed(100 * made), draw_of(objective, 100 * x, y, seed)[0], ctx)
    torch.testing.assert_close(bigger.per_sample, loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_far_blobs_see_each_other(seed, float64):
    torch.manual_seed(seed)
    made = torch.randn(64, 2, requires_grad=True)
    x = torch.randn(64, 2) + 40
    draw, ctx = draw_of(Drifting(), x, None, seed)
    (gradient,) = torch.autograd.grad(Drifting()(placed(made), draw, ctx).per_sample.sum(), made)
    step = -gradient.sum(0)
    assert step.sum() / step.norm() / math.sqrt(2) > 0.999
    bare = drift(made.detach(), made.detach(), x, 0.05)
    assert bare.abs().max() < 1e-30  # the control: absolute distances and no floor are blind


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_brings_each_class_nearer_to_its_own_data(seed, float64):
    """The sign of the loss, and that classes are not mixed."""
    torch.manual_seed(seed)
    y = torch.arange(32) % 2
    center = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    x, made = center[y] + 0.1 * torch.randn(32, 2), 0.1 * torch.randn(32, 2)
    made.requires_grad_()
    draw, ctx = draw_of(Drifting(), x, y, seed)
    (gradient,) = torch.autograd.grad(Drifting()(placed(made), draw, ctx).per_sample.sum(), made)
    for c in range(2):
        step = -gradient[y == c].mean(0)
        assert step[c] > 0 and step[c] > 5 * step[1 - c].abs()


@pytest.mark.parametrize("seed", SEEDS)
def test_guidance_pushes_away_from_the_other_classes(seed, float64):
    torch.manual_seed(seed)
    y = torch.arange(64) % 2
    center = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[y]
    x, made = center + 0.3 * torch.randn(64, 2), center + 0.3 * torch.randn(64, 2)
    made.requires_grad_()  # in the right place already

    def mean_step(omega):
        objective = Drifting(radii=(0.2,), omega=omega)
        draw, ctx = draw_of(objective, x, y, seed)
        loss = objective(placed(made), draw, ctx).per_sample.sum()
        return -torch.autograd.grad(loss, made)[0][y == 0].mean(0)[0]

    assert mean_step(3.0) > max(0, mean_step(1.0) + 0.3)


def test_it_trains_on_classes_that_no_batch_holds_twice():
    torch.manual_seed(0)
    x = torch.randn(64, 2) + torch.tensor([3.0, 0.0])
    net = MLP(2, 32, 2, num_classes=64)
    config = TrainConfig(steps=150, batch=32, lr=1e-2, ema=(0.9,))
    field, history = train(net, Drifting(), FromTensors(x, torch.arange(64)), config)
    eps = torch.randn(256, 2)
    zero, one = torch.zeros(256), torch.ones(256)
    made = eps - field(eps, zero, one, torch.arange(256) % 64)
    assert (made.mean(0) - x.mean(0)).norm() < 0.5
    assert history[-1].watch["drift"] < 0.5 * history[0].watch["drift"]


def test_a_network_without_classes_is_compared_with_all_of_the_data():
    net, bare = MLP(2, 8, 2, num_classes=3), MLP(2, 8, 2)
    x, y = torch.randn(32, 2), torch.arange(32) % 3
    draw, ctx = draw_of(Drifting(), x, y)
    alone, _ = draw_of(Drifting(), x, None)
    losses = [Drifting()(u, d, ctx).per_sample for u, d in ((bare, draw), (bare, alone))]
    assert torch.equal(*losses)
    assert not torch.equal(Drifting()(net, draw, ctx).per_sample, losses[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_label_is_generated_alone_and_each_has_data(seed):
    torch.manual_seed(seed)
    for n in (2, 3, 4, 7, 32):
        for classes in (1, 2, 5, 100):
            y = torch.randint(classes, (n,))
            made = paired(y)
            assert ((made[:, None] == made).sum(1) >= 2).all()
            assert (made[:, None] == y).any(1).all()
            kept = (y[:, None] == y).sum(1) > 1
            assert torch.equal(made[kept], y[kept])
            order = torch.randperm(n)
            assert torch.equal(paired(y[order]), made[order])


@pytest.mark.parametrize(
    "bad",
    [
        {"radii": ()},
        {"radii": (0.0,)},
        {"radii": (-1.0,)},
        {"radii": (math.nan,)},
        {"omega": 0.5},
        {"omega": math.inf},
        {"omega": math.nan},
        {"floor": -1.0},
        {"floor": 1.0},
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Drifting(**bad)


def test_batches_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="two or more"):
        draw_of(Drifting(), torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match="labels"):
        draw_of(Drifting(omega=2.0), torch.zeros(4, 2), None)
