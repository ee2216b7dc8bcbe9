"""What each objective claims to be, in float64, with a control beside every claim."""

from dataclasses import replace

import pytest
import torch

from meanflow_lite.data.batches import seeded
from meanflow_lite.data.toys import gaussian, mixture_c, product
from meanflow_lite.fields import instantaneous
from meanflow_lite.losses import squared_error
from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.notebook.bugs import EulerMap
from meanflow_lite.objectives import (
    CONDITIONAL,
    AdversarialDistillation,
    AlphaFlow,
    Consistency,
    ImprovedMeanFlow,
    LagrangianSelfDistillation,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
    Velocity,
)
from meanflow_lite.objectives.base import Context
from meanflow_lite.objectives.drifting import drift
from meanflow_lite.objectives.schedules import Constant, Doubling, Sigmoid
from meanflow_lite.paths import Uniform, bcast
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import integrate, sample, uniform_times


@pytest.fixture
def net(float64):
    """A network with weights of ordinary size everywhere, the last layer included."""
    made = MLP(2, 16, 2)
    torch.nn.init.normal_(made.last.weight)
    return made


def nothing(z, r, t, y=None):
    return torch.zeros_like(z)


def context(u=nothing, teacher=None, progress=0.5):
    return Context(u, teacher, torch.tensor(progress), Random(3))


def batch(data=None, n=64):
    return (data or product()).sample(n, seeded(5))[0].double()


def gradient(objective, net, draw, ctx):
    loss = objective(net, draw, ctx).per_sample.mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def _off(u, rows, target):
    """The squared defect of one jump against a target, ``[B]``."""
    return (u(rows.z, rows.r, rows.t, rows.y) - target).square().flatten(1).sum(1)


def test_alphaflow_tends_to_meanflow_linearly_in_alpha(net):
    ctx, options = context(net), {"p_equal": 0.25, "p": 0.0}
    draw = MeanFlow(**options).draw(batch(), None, ctx)
    limit = gradient(MeanFlow(**options), net, draw, ctx)

    def distance(alpha):
        rows = replace(draw, extra={"alpha": torch.full_like(draw.t, alpha)})
        return (gradient(AlphaFlow(**options), net, rows, ctx) - limit).norm()

    near, far = distance(1e-4), distance(2e-4)
    torch.testing.assert_close(far / near, torch.tensor(2.0), rtol=0.02, atol=0.0)
    assert distance(0.5) > 300 * near  # the limit is not the method


def test_alphaflow_with_its_weight_tends_to_weighted_meanflow(net):
    ctx, options = context(net), {"p_equal": 0.25, "p": 1.0, "c": 1e-3}
    draw = MeanFlow(**options).draw(batch(), None, ctx)
    rows = replace(draw, extra={"alpha": torch.full_like(draw.t, 1e-5)})
    limit = gradient(MeanFlow(**options), net, draw, ctx)
    found = gradient(AlphaFlow(**options), net, rows, ctx)
    # plain rows keep weight 1 and jump rows have alpha * (1 / alpha): the same gradient
    torch.testing.assert_close(found, limit, rtol=1e-3, atol=1e-4)


def test_alphaflow_at_one_is_trajectory_flow_matching(net):
    ctx, objective = context(net), AlphaFlow(Constant(1.0), p_equal=0.0, p=0.0)
    draw = objective.draw(batch(), None, ctx)
    found = objective(net, draw, ctx).per_sample
    wanted = squared_error(net(draw.z, draw.r, draw.t), draw.v)
    torch.testing.assert_close(found, wanted)
    half = replace(draw, extra={"alpha": torch.full_like(draw.t, 0.5)})
    assert not torch.allclose(objective(net, half, ctx).per_sample, wanted)


def test_alphaflow_at_a_half_with_the_own_velocity_is_twice_shortcut(net):
    def first_half(u, rows, ctx):
        return u(rows.z, (rows.r + rows.t) / 2, rows.t, rows.y).detach()

    own = Velocity("first half", first_half, first_half)
    ctx, shortcut = context(net), Shortcut(levels=3, p_base=0.0)
    draw = shortcut.draw(batch(), None, ctx)
    rows = replace(draw, extra={"alpha": torch.full_like(draw.t, 0.5)})
    found = AlphaFlow(p_equal=0.0, p=0.0, velocity=own)(net, rows, ctx).per_sample
    torch.testing.assert_close(found, 2 * shortcut(net, draw, ctx).per_sample)
    conditional = AlphaFlow(p_equal=0.0, p=0.0)(net, rows, ctx).per_sample
    assert not torch.allclose(found, conditional)


def test_the_schedule_of_alpha_falls_from_one_to_zero_and_snaps():
    alphas = [Sigmoid()(k / 50) for k in range(51)]
    assert alphas[0] == 1.0 and alphas[-1] == 0.0
    assert alphas == sorted(alphas, reverse=True)
    assert min(a for a in alphas if a) >= 5e-3
    steps = [Doubling(8, 64)(k / 100) for k in range(101)]
    assert set(steps) == {8, 16, 32, 64} and steps == sorted(steps)


def test_improved_meanflow_along_eps_minus_x_has_meanflows_gradient(net):
    ctx, options = context(net), {"p_equal": 0.25, "p": 0.0}
    draw = MeanFlow(**options).draw(batch(), None, ctx)
    wanted = gradient(MeanFlow(**options), net, draw, ctx)
    same = ImprovedMeanFlow(tangent_velocity=CONDITIONAL, **options)
    torch.testing.assert_close(gradient(same, net, draw, ctx), wanted)
    other = gradient(ImprovedMeanFlow(**options), net, draw, ctx)
    assert (other - wanted).norm() > 1e-3 * wanted.norm()


def test_improved_meanflow_refuses_a_network_without_the_head(net):
    objective = ImprovedMeanFlow(auxiliary_head=True, p=0.0)
    draw = objective.draw(batch(), None, context(net))
    with pytest.raises(ValueError, match="velocity head"):
        objective(net, draw, context(net))
    with pytest.raises(ValueError, match="with_velocity"):
        objective(lambda z, r, t, y=None: z, draw, context(net))
    made = MLP(2, 16, 2, velocity_head=True)
    objective(made, draw, context(made)).per_sample.mean().backward()
    assert made.velocity is not None and made.velocity.weight.grad.abs().sum() > 0


def test_splitting_holds_on_every_average_velocity_and_only_plain_rows_choose(float64):
    data, objective = product(), SplitMeanFlow(p_equal=0.5)
    draw = objective.draw(batch(data), None, context())
    plain, jump = draw.split()

    def constant(z, r, t, y=None):
        return torch.full_like(z, 0.7)

    for u in (data.average, constant):
        assert _off(u, jump, objective.split_target(u, jump)).max() < 1e-16
    other = instantaneous(data.velocity)
    assert _off(other, jump, objective.split_target(other, jump)).mean() > 1e-3
    # the anchor tells them apart
    exact, other = (
        objective(u, plain, context()).per_sample.mean() for u in (data.average, constant)
    )
    assert other > exact + 1


def test_the_consistency_function_of_exact_u_is_constant_along_trajectories(float64):
    data, objective = product(), Consistency()
    z, t = 2 * torch.randn(64, 2), torch.rand(64) * 0.9 + 0.1
    s = t * torch.rand(64)

    def gap(u):
        z_s = z - bcast(t - s, z) * data.average(z, s, t)
        ends = objective.to_data(u, z, t, None), objective.to_data(u, z_s, s, None)
        return (ends[0] - ends[1]).abs().max()

    assert gap(data.average) < 1e-8
    assert gap(instantaneous(data.velocity)) > 0.1
    zero = torch.zeros(64)
    torch.testing.assert_close(objective.to_data(data.average, z, zero, None), z)


def test_consistency_is_t_times_alphaflow_to_the_data(net):
    ctx, objective = context(net), Consistency(Doubling(16, 16), Uniform())
    draw = objective.draw(batch(), None, ctx)
    found = objective(net, draw, ctx).per_sample / draw.t
    rows = replace(draw, extra={"alpha": (draw.t - draw.extra["s"]) / draw.t})
    wanted = AlphaFlow(p_equal=0.0, p=0.0)(net, rows, ctx).per_sample
    torch.testing.assert_close(found, wanted)


def test_discrete_consistency_tends_to_its_continuous_limit_linearly(net):
    ctx, limit = context(net), Consistency(steps=None, law=Uniform())
    draw = limit.draw(batch(), None, ctx)
    wanted = gradient(limit, net, draw, ctx)

    def distance(delta):
        rows = replace(draw, extra={"s": draw.t * (1 - delta)})
        return (gradient(Consistency(), net, rows, ctx) - wanted).norm()

    ratio = distance(2e-4) / distance(1e-4)
    torch.testing.assert_close(ratio, torch.tensor(2.0), rtol=0.02, atol=0.0)
    assert distance(0.5) > 0.05 * wanted.norm()


def test_the_terminal_term_vanishes_on_exact_u(float64):
    data, objective = product(), TerminalVelocity()
    draw = objective.draw(batch(data), None, context())
    assert objective.terminal_error(data.average, draw, data.average).max() < 1e-12
    wrong = instantaneous(data.velocity)
    assert objective.terminal_error(wrong, draw, wrong).mean() > 0.1


@pytest.mark.parametrize("data", [gaussian(), product()], ids=["1-D", "2-D"])
def test_the_lagrangian_term_vanishes_on_every_flow_map_and_only_plain_rows_choose(float64, data):
    """Exactly, row by row; a constant field is the flow map of a constant velocity."""
    objective = LagrangianSelfDistillation(p_equal=0.5)
    draw = objective.draw(batch(data), None, context())
    plain, jump = draw.split()

    def constant(z, r, t, y=None):
        return torch.full_like(z, 0.7)

    for u in (data.average, constant):
        assert objective.jump_error(u, jump).max() < 1e-12
    assert objective.jump_error(instantaneous(data.velocity), jump).mean() > 0.1
    exact, other = (
        objective(u, plain, context()).per_sample.mean() for u in (data.average, constant)
    )
    assert other > exact + 1


def test_terminal_velocity_matching_is_the_lagrangian_rule_with_an_average_as_target(net):
    lagrangian, terminal = LagrangianSelfDistillation(), TerminalVelocity()
    draw = terminal.draw(batch(), None, context())
    found = lagrangian.jump_error(net, draw)
    torch.testing.assert_close(found, terminal.terminal_error(net, draw, net))
    gradients = [
        torch.autograd.grad(error.mean(), net.last.weight)[0]
        for error in (found, terminal.terminal_error(net, draw, net))
    ]
    torch.testing.assert_close(*gradients)
    other = MLP(2, 16, 2)
    assert (terminal.terminal_error(net, draw, other) - found).abs().max() > 0.1
    free = replace(lagrangian, stop_gradient=False).jump_error(net, draw)
    torch.testing.assert_close(free, lagrangian.jump_error(net, draw))
    through = torch.autograd.grad(free.mean(), net.last.weight)[0]
    assert (through - gradients[0]).norm() > 0.1 * gradients[0].norm()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_lagrangian_self_distillation_needs_rows_that_see_the_data(share):
    with pytest.raises(ValueError, match="p_equal"):
        LagrangianSelfDistillation(p_equal=share)


def test_the_gradient_through_the_end_derivative_agrees_with_finite_differences(net):
    frozen, objective = MLP(2, 16, 2), TerminalVelocity()
    torch.nn.init.normal_(frozen.last.weight)
    ctx = context(frozen)
    draw = objective.draw(batch(n=16), None, ctx)
    weight = net.last.weight
    gap = bcast(draw.t - draw.r, draw.z)
    with torch.no_grad():
        z_r = draw.z - gap * net(draw.z, draw.r, draw.t)
        target = frozen(z_r, draw.r, draw.r)

    def loss(step):
        """The same loss, with z_r and the target held still and d/dr by central differences."""
        with torch.no_grad():
            weight[0, 0] += step
            h = 1e-5
            up, down = (net(draw.z, draw.r + d, draw.t) for d in (h, -h))
            value = net(draw.z, draw.r, draw.t) - gap * (up - down) / (2 * h)
            weight[0, 0] -= step
        return (value - target).square().sum(1).mean()

    wanted = (loss(1e-4) - loss(-1e-4)) / 2e-4

    def found(through):
        chosen = replace(objective, through_derivative=through)
        error = chosen.terminal_error(net, draw, frozen).mean()
        return torch.autograd.grad(error, weight)[0][0, 0]

    torch.testing.assert_close(found(True), wanted, rtol=1e-4, atol=1e-6)
    assert (found(False) - wanted).abs() > 1e-3 * wanted.abs()


def test_shortcut_at_rest_is_128_euler_steps(float64):
    data = gaussian()
    euler, objective = EulerMap(data.velocity, 128), Shortcut(p_base=0.0)
    draw = objective.draw(batch(data), None, context())
    assert _off(euler, draw, objective.bootstrap(draw, context(euler))).max() < 1e-20
    eps = torch.randn(64, 1)
    steps = integrate(instantaneous(data.velocity), eps, uniform_times(128))
    torch.testing.assert_close(sample(euler, eps), steps)
    base = Shortcut(p_base=1.0).draw(batch(data), None, context())
    torch.testing.assert_close(euler(base.z, base.r, base.t), data.velocity(base.z, base.t))
    coarse = instantaneous(data.velocity)
    assert _off(coarse, draw, objective.bootstrap(draw, context(coarse))).mean() > 1e-3


@pytest.mark.parametrize("stage", range(3))
def test_each_halving_of_a_teacher_is_exact(float64, stage):
    """Stage 0 asks a velocity at r = t and gives Euler's map; later stages keep it."""
    data, objective = mixture_c(), ProgressiveDistillation(halvings=3)
    velocity = instantaneous(data.velocity)
    euler = EulerMap(data.velocity, 8)
    ctx = context(teacher=euler if stage else velocity, progress=(stage + 0.5) / 3)
    draw = objective.draw(batch(data), None, ctx)
    assert objective(euler, draw, ctx).per_sample.max() < 1e-20
    assert objective(velocity, draw, ctx).per_sample.mean() > 1e-4
    if stage:
        ctx = replace(ctx, teacher=data.average)
        assert objective(data.average, draw, ctx).per_sample.max() < 1e-16


def blobs(n, center, seed):
    return center + torch.randn(n, 2, generator=seeded(seed), dtype=torch.float64)


def test_the_drift_changes_sign_when_the_batches_swap_and_vanishes_for_one_set():
    points, p, q = blobs(16, 0, 1), blobs(32, 0.5, 2), blobs(48, 0, 3)
    forth, back = drift(points, p, q, 0.5), drift(points, q, p, 0.5)
    torch.testing.assert_close(forth, -back, rtol=0.0, atol=1e-14)
    assert forth.norm() > 1e-2
    assert drift(points, p, p.flip(0), 0.5).abs().max() < 1e-14


def test_the_drift_between_batches_of_one_distribution_shrinks_as_the_root_of_n():
    def size(n):
        points = blobs(n, 0, 0)
        tries = [drift(points, blobs(n, 0, 10 + k), blobs(n, 0, 50 + k), 1.0) for k in range(24)]
        return torch.stack(tries).square().sum(-1).mean().sqrt()

    assert 1.6 < size(32) / size(128) < 2.5
    apart = drift(blobs(128, 0, 0), blobs(128, 0, 1), blobs(128, 1, 2), 1.0)
    assert apart.square().sum(-1).mean().sqrt() > 3 * size(128)


def test_the_drift_points_from_one_blob_to_the_other_and_zero_does_not_mean_equal():
    here, there = 0.1 * blobs(64, 0, 1), 0.1 * blobs(64, 0, 2) + torch.tensor([1.0, 0.0])
    v = drift(here, here, there, 0.5)
    assert (v[:, 0] > 0).all()
    far = there + torch.tensor([9.0, 0.0])
    assert drift(here, here, far, 0.05).abs().max() < 1e-30


def test_the_two_players_of_adversarial_distillation_do_not_touch(net):
    critic = MLPDiscriminator(2, 16).double()
    objective = AdversarialDistillation(critic, penalty=0.0)
    ctx = context(teacher=instantaneous(product().velocity))
    draw = objective.draw(batch(), None, ctx)
    loss = objective(net, draw, ctx).per_sample.mean()
    players = [list(net.parameters()), list(critic.parameters())]
    found = [torch.autograd.grad(loss, player, retain_graph=True) for player in players]

    made = draw.z - bcast(draw.t, draw.z) * net(draw.z, draw.r, draw.t)
    critic_loss = (1 - critic(draw.x)).relu() + (1 + critic(made.detach())).relu()
    s, noise = draw.extra["s"], draw.extra["noise"]
    there = (1 - bcast(s, made)) * made.detach() + bcast(s, made) * noise
    taught = there - bcast(s, made) * product().velocity(there, s)
    net_loss = 2.5 * (1 - s) * squared_error(made, taught) - critic(made)
    wanted = [
        torch.autograd.grad(net_loss.mean(), players[0], retain_graph=True),
        torch.autograd.grad(critic_loss.mean(), players[1]),
    ]
    torch.testing.assert_close(found, [tuple(w) for w in wanted])
    # without the separation the critic would be taught to please the generator
    mixed = torch.autograd.grad(-critic(made.detach()).mean(), players[1])
    assert max(g.abs().max() for g in mixed) > 1e-3
