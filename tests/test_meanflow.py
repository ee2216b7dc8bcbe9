"""The MeanFlow loss against flow matching, and against a version written here from the paper."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.autograd.functional import jvp as reverse_jvp

from meanflow_lite.data import toys
from meanflow_lite.data.batches import seeded
from meanflow_lite.guidance import Guidance, LabelDropout, Scales
from meanflow_lite.identity import TANGENTS, finite_difference, total_derivative
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import (
    ANY,
    INSTANT,
    JOINT,
    TEACHER,
    TO_DATA,
    Context,
    FlowMatching,
    ImprovedMeanFlow,
    MeanFlow,
    Shortcut,
    SplitMeanFlow,
    exact,
)
from meanflow_lite.paths import ToData, Uniform
from meanflow_lite.randomness import Random

B = 32


def network(dim: int = 2, num_classes: int = 0) -> MLP:
    net = MLP(dim, width=16, depth=2, num_classes=num_classes).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return net


def nowhere(z, r, t, y=None):
    return z


def context(teacher=None) -> Context:
    return Context(nowhere, teacher, torch.tensor(0.5), Random(0))


def gradient(loss, net):
    return torch.autograd.grad(loss.per_sample.mean(), list(net.parameters()), allow_unused=True)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_loss_equals_the_textbook_version(shape, p):
    """Full batch, reverse-mode derivative, an explicit sum: nothing shared with the library."""
    net, c = network(dim=16 if len(shape) > 1 else 2), 0.01
    x = torch.randn(B, *shape, dtype=torch.float64)
    objective = MeanFlow(p=p, c=c, p_equal=0.5)
    draw = objective.draw(x, None, context())
    loss = objective(net, draw, context())

    wide = (B, *(1,) * len(shape))
    t, r = draw.t.reshape(wide), draw.r.reshape(wide)
    z, v = (1 - t) * x + t * draw.eps, draw.eps - x
    one, zero = torch.ones(B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    dudt = torch.as_tensor(reverse_jvp(net, (z, draw.r, draw.t), (v, zero, one))[1])
    target = (v - (t - r) * dudt).detach()
    squares = ((net(z, draw.r, draw.t) - target) ** 2).reshape(B, -1).sum(dim=1)
    expected = squares / (squares.detach() + c) ** p

    torch.testing.assert_close(loss.per_sample, expected)
    torch.testing.assert_close(loss.watch["error"], squares.detach())
    for ours, theirs in zip(
        gradient(loss, net),
        torch.autograd.grad(expected.mean(), list(net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    if p:  # a mean over dimensions in place of the sum is another loss
        with pytest.raises(AssertionError):
            torch.testing.assert_close(
                loss.per_sample, squares / (squares.detach() / x[0].numel() + c) ** p
            )


def test_at_r_equal_t_meanflow_is_flow_matching():
    net, x = network(), torch.randn(B, 2, dtype=torch.float64)
    draw = FlowMatching().draw(x, None, context())
    ours = MeanFlow(p=0.0)(net, draw, context())
    theirs = FlowMatching()(net, draw, context())
    assert torch.equal(ours.per_sample, theirs.per_sample)
    for a, b in zip(gradient(ours, net), gradient(theirs, net), strict=True):
        assert torch.equal(a, b)
    jump = MeanFlow(p=0.0, p_equal=0.0)
    moved = jump(net, jump.draw(x, None, context()), context())
    assert not torch.allclose(moved.per_sample, theirs.per_sample)


def test_the_derivative_is_paid_for_by_jump_rows_alone():
    rows = []

    def spy(u, z, r, t, v, y=None, *, detach=False):
        rows.append((len(z), len(v)))
        return total_derivative(u, z, r, t, v, y, detach=detach)

    objective = MeanFlow(p_equal=0.75, derivative=spy)
    draw = objective.draw(torch.randn(B, 2, dtype=torch.float64), None, context())
    objective(network(), draw, context())
    assert rows == [(B, B // 4)]


def test_stop_gradient_changes_the_gradient_and_not_the_loss():
    net, x = network(), torch.randn(B, 2, dtype=torch.float64)
    stopped, flowing = MeanFlow(p=0.0), MeanFlow(p=0.0, stop_gradient=False)
    draw = stopped.draw(x, None, context())
    a, b = stopped(net, draw, context()), flowing(net, draw, context())
    torch.testing.assert_close(a.per_sample, b.per_sample)
    assert any(
        not torch.allclose(g, h) for g, h in zip(gradient(a, net), gradient(b, net), strict=True)
    )


@pytest.mark.parametrize("order", [1, 2])
def test_finite_differences_converge_at_their_order(order):
    net, x = network(), torch.randn(B, 2, dtype=torch.float64)
    draw = MeanFlow(p_equal=0.0).draw(x, None, context())
    keep = draw.t - draw.r > 0.1  # so that the step is not cut
    at = (draw.z[keep], draw.r[keep], draw.t[keep], draw.v[keep])
    _, right = total_derivative(net, *at)
    errors = [
        (finite_difference(net, *at, step=h, order=order)[1] - right).abs().max()
        for h in (0.02, 0.01)
    ]
    assert 2 ** (order - 0.3) < errors[0] / errors[1] < 2 ** (order + 0.3)


def test_finite_differences_never_leave_the_interval():
    seen = []

    def field(z, r, t, y=None):
        seen.append((t - r).min())
        return z

    r = torch.tensor([0.5, 0.5, 0.0])
    t = torch.tensor([0.5, 0.501, 1.0])
    z = torch.ones(3, 2)
    _, dudt = finite_difference(field, z, r, t, z, step=0.1, order=2)
    assert min(seen) >= 0 and torch.isfinite(dudt).all() and (dudt[0] == 0).all()


@pytest.mark.parametrize("name", list(TANGENTS))
def test_tangents_combine_linearly(name):
    """Each study tangent is a combination of the three partial derivatives."""
    net, x = network(), torch.randn(B, 2, dtype=torch.float64)
    draw = MeanFlow(p_equal=0.0).draw(x, None, context())
    at = (net, draw.z, draw.r, draw.t, draw.v)
    pieces = [
        total_derivative(*at, tangent=basis)[1]
        for basis in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    ]
    expected = sum(w * d for w, d in zip(TANGENTS[name], pieces, strict=True))
    torch.testing.assert_close(total_derivative(*at, tangent=TANGENTS[name])[1], expected)


def test_velocity_sources_use_what_their_name_says():
    toy = toys.TOYS["ring"]()
    x, _ = toy.sample(B, seeded(1))
    x = x.double()
    student, teacher = network(), network()
    base = MeanFlow(p=0.0, p_equal=0.5)
    draw = base.draw(x, None, context())
    _, rows = draw.split()

    def target(objective):
        return objective.prediction_and_target(student, rows, context(teacher))[1]

    def expected(v, along):
        _, dudt = total_derivative(student, rows.z, rows.r, rows.t, along)
        return v - (rows.t - rows.r)[:, None] * dudt

    own = student(rows.z, rows.t, rows.t)
    taught = teacher(rows.z, rows.t, rows.t)
    truth = toy.velocity(rows.z, rows.t)
    cases = {
        (own, own): MeanFlow(target_velocity=JOINT, tangent_velocity=JOINT),
        (rows.v, own): MeanFlow(tangent_velocity=JOINT),
        (taught, taught): MeanFlow(target_velocity=TEACHER, tangent_velocity=TEACHER),
        (truth, truth): (lambda e: MeanFlow(target_velocity=e, tangent_velocity=e))(
            exact(toy.velocity)
        ),
    }
    for (v, along), objective in cases.items():
        torch.testing.assert_close(target(objective), expected(v, along))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(target(MeanFlow()), expected(own, own))


def test_no_gradient_reaches_the_sources():
    student, teacher = network(), network()
    objective = MeanFlow(p_equal=0.5, target_velocity=TEACHER, tangent_velocity=JOINT)
    draw = objective.draw(torch.randn(B, 2, dtype=torch.float64), None, context())
    objective(student, draw, context(teacher)).per_sample.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_domains_follow_the_settings():
    assert MeanFlow().domain == ANY
    assert MeanFlow(p_equal=1.0).domain == INSTANT
    assert MeanFlow(pair=ToData(Uniform()), p_equal=0.0).domain == TO_DATA


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="rows with r = t"):
        MeanFlow(p_equal=0.0, target_velocity=JOINT)
    objective = MeanFlow(target_velocity=TEACHER)
    draw = objective.draw(torch.randn(B, 2, dtype=torch.float64), None, context())
    with pytest.raises(ValueError, match="teacher"):
        objective(network(), draw, context())
    with pytest.raises(ValueError, match="order"):
        finite_difference(network(), draw.z, draw.r, draw.t, draw.v, order=3)
    with pytest.raises(ValueError, match="tangent of z"):
        total_derivative(network(), draw.z, draw.r, draw.t, draw.v[:, :1])
    with pytest.raises(ValueError, match="returns the shape"):
        total_derivative(lambda z, r, t, y: z[:, :1], draw.z, draw.r, draw.t, draw.v)


def test_guided_step_equals_the_formula_row_by_row():
    """kappa reuses the prediction on plain rows; a loop over rows and plain evaluations agrees."""
    classes = 3
    net = network(num_classes=classes)
    guidance = Guidance(null=classes, omega=1.5, kappa=0.25, interval=(0.2, 0.9))
    objective = MeanFlow(
        p=0.0, p_equal=0.5, guidance=guidance, dropout=LabelDropout(classes, rate=0.3)
    )
    x, y = torch.randn(B, 2, dtype=torch.float64), torch.randint(classes, (B,))
    draw = objective.draw(x, y, context())
    assert draw.y is not None and (draw.y == classes).any() and (draw.y != classes).any()
    loss = objective(net, draw, context())
    for i in range(B):
        row = draw.rows(i, i + 1)
        v = row.v
        if int(row.y) != classes and 0.2 <= float(row.t) <= 0.9:
            own = net(row.z, row.t, row.t, row.y)
            none = net(row.z, row.t, row.t, torch.tensor([classes]))
            v = 1.5 * v + 0.25 * own + (1 - 1.5 - 0.25) * none
        u, dudt = total_derivative(net, row.z, row.r, row.t, v, row.y)
        error = (u - (v - (row.t - row.r)[:, None] * dudt)).square().sum()
        torch.testing.assert_close(loss.per_sample[i], error)


def test_a_scale_for_each_row_reaches_target_and_network():
    net = MLP(2, 16, 2, num_classes=3, conditions=("omega",)).double()
    torch.nn.init.normal_(net.last.weight)
    guidance = Guidance(null=3, kappa=0.5, scales=Scales(1.0, 3.0))
    objective = MeanFlow(p=0.0, p_equal=0.5, guidance=guidance, dropout=LabelDropout(3, 0.3))
    x, y = torch.randn(B, 2, dtype=torch.float64), torch.randint(3, (B,))
    draw = objective.draw(x, y, context())
    loss = objective(net, draw, context()).per_sample
    scale = draw.extra["omega"]
    assert scale.min() >= 1 and scale.max() <= 3 and scale.std() > 0.3
    for i in range(B):
        one = replace(objective, guidance=Guidance.effective(float(scale[i]), 3, 0.5))
        row = replace(draw.rows(i, i + 1), extra={})
        told = partial(net, omega=scale[i : i + 1])
        torch.testing.assert_close(one(told, row, context()).per_sample[0], loss[i])
    forgotten = replace(draw, extra={"omega": scale.flip(0)})
    assert (objective(net, forgotten, context()).per_sample - loss).abs().max() > 1e-2


def test_finite_difference_is_a_derivative_of_the_objective():
    net, x = network(), torch.randn(B, 2, dtype=torch.float64)
    cheap = MeanFlow(p=0.0, derivative=partial(finite_difference, step=1e-5, order=2))
    draw = cheap.draw(x, None, context())
    torch.testing.assert_close(
        cheap(net, draw, context()).per_sample,
        MeanFlow(p=0.0)(net, draw, context()).per_sample,
        rtol=1e-4,  # the cut of the step at t - r, and rounding over 1e-5
        atol=1e-6,
    )


def guided_methods() -> dict[str, object]:
    """Every way through the one pass: sources, guidance, kappa, heads, shares of plain rows."""
    guidance = Guidance.effective(2.0, 3, kappa=0.5)
    dropout = LabelDropout(3, 0.3)
    return {
        "meanflow": MeanFlow(),
        "guided": MeanFlow(guidance=guidance, dropout=dropout),
        "guided without kappa": MeanFlow(guidance=Guidance(3, 2.0), dropout=dropout),
        "joint": MeanFlow(p_equal=0.5, target_velocity=JOINT, tangent_velocity=JOINT),
        "only jumps": MeanFlow(p_equal=0.0, guidance=guidance, dropout=dropout),
        "only plain rows": MeanFlow(p_equal=1.0, guidance=guidance, dropout=dropout),
        "improved": ImprovedMeanFlow(),
        "improved with a head": ImprovedMeanFlow(auxiliary_head=True),
        "split": SplitMeanFlow(),
        "shortcut": Shortcut(),
    }


@pytest.mark.parametrize("name", guided_methods())
def test_one_pass_with_a_graph_and_one_without(name):
    """Which rows are evaluated, and how: the network is a spy."""
    calls = []

    class Spy(MLP):
        def _note(self, kind, z):
            calls.append((kind, len(z), torch.is_grad_enabled(), self.training))

        def forward(self, z, r, t, y=None, **cond):
            self._note("value", z)
            return super().forward(z, r, t, y, **cond)

        def forward_with_tangent(self, z, r, t, dz, dr, dt, y=None, **cond):
            self._note(f"tangent of {len(dz)}", z)
            return super().forward_with_tangent(z, r, t, dz, dr, dt, y, **cond)

        def with_velocity(self, z, r, t, y=None, **cond):
            self._note("value and head", z)
            return super().with_velocity(z, r, t, y, **cond)

    net, objective = Spy(2, 16, 2, num_classes=3, velocity_head=True), guided_methods()[name]
    x, y = torch.randn(16, 2), torch.arange(16) % 3
    objective(net, objective.draw(x, y, context()), replace(context(), u_ema=net))
    assert net.training
    graphs = {
        "improved with a head": [("value and head", 16, True, True)],
        "only plain rows": [("value", 16, True, True)],
        "only jumps": [("tangent of 16", 16, True, True)],
        "split": [("value", 16, True, True)],
        "shortcut": [("value", 16, True, True)],
    }
    k = 8 if name in ("joint", "improved") else 4
    assert [c for c in calls if c[2]] == graphs.get(name, [(f"tangent of {k}", 16, True, True)])
    others = {
        "meanflow": [],
        "guided": [("value", 20, False, False)],  # all null labels, and the jump rows' own
        "guided without kappa": [("value", 16, False, False)],
        "joint": [("value", 8, False, False)],
        "only jumps": [("value", 32, False, False)],
        "only plain rows": [("value", 16, False, False)],
        "improved": [("value", 8, False, False)],
        "improved with a head": [("tangent of 8", 8, False, True)],
        "split": [("value", 8, False, True)] * 2,
        "shortcut": [("value", 2, False, True)] * 2,
    }
    assert [c for c in calls if not c[2]] == others[name]


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_improved_meanflow_equals_a_loop_over_its_rows(head, seed):
    """Written from the paper, each row by itself: tangents of the right rows, head included."""
    torch.manual_seed(seed)
    net = MLP(2, 16, 2, num_classes=3, velocity_head=True).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    objective = ImprovedMeanFlow(p=0.5, c=0.1, auxiliary_head=head, dropout=LabelDropout(3, 0.3))
    x, y = torch.randn(B, 2, dtype=torch.float64), torch.randint(3, (B,))
    draw = objective.draw(x, y, replace(context(), random=Random(seed)))
    loss, terms = objective(net, draw, context()), []
    for i in range(B):
        row = draw.rows(i, i + 1)
        v = net(row.z, row.t, row.t, row.y)
        if head:
            v = net.with_velocity(row.z, row.r, row.t, row.y)[1]
        _, dudt = reverse_jvp(
            lambda z, r, t, y=row.y: net(z, r, t, y),
            (row.z, row.r, row.t),
            (v.detach(), torch.zeros_like(row.r), torch.ones_like(row.t)),
        )
        gap = (row.t - row.r)[:, None]
        compound = net(row.z, row.r, row.t, row.y) + gap * torch.as_tensor(dudt).detach()
        errors = [(compound - row.v).square().sum()]
        if head:
            errors.append((v - row.v).square().sum())
        terms.append(sum(e / (e.detach() + 0.1) ** 0.5 for e in errors))
        torch.testing.assert_close(loss.per_sample[i], terms[-1])
    ours = gradient(loss, net)
    theirs = torch.autograd.grad(
        torch.stack(terms).mean(), list(net.parameters()), allow_unused=True
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_foreign_network_pays_in_its_jump_rows_alone():
    """Without forward_with_tangent: one plain evaluation, one jvp of the last rows."""
    net, calls = network(num_classes=3), []

    def foreign(z, r, t, y=None):
        calls.append(len(z))
        return net(z, r, t, y)

    objective = MeanFlow(p_equal=0.75, guidance=Guidance(3, 2.0), dropout=LabelDropout(3, 0.3))
    x, y = torch.randn(B, 2, dtype=torch.float64), torch.randint(3, (B,))
    draw = objective.draw(x, y, context())
    theirs = objective(foreign, draw, context())
    assert calls == [B, B * 3 // 4, B // 4]
    ours = objective(net, draw, context())
    torch.testing.assert_close(theirs.per_sample, ours.per_sample)
    for a, b in zip(gradient(ours, net), gradient(theirs, net), strict=True):
        torch.testing.assert_close(a, b)


def test_guidance_sees_the_network_without_its_dropout():
    """Its targets are then no random numbers; and the modules that trained go on training."""

    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop = network(num_classes=3), torch.nn.Dropout(0.5)
            self.frozen = torch.nn.Dropout(0.5).eval()

        def forward(self, z, r, t, y=None):
            return self.drop(self.net(self.frozen(z), r, t, y))

    net = Dropping()
    guidance = Guidance.effective(2.0, 3, kappa=0.5)
    z, t, y = torch.randn(B, 2, dtype=torch.float64), torch.rand(B).double(), torch.arange(B) % 3
    first, second = (guidance(net, z, t, 0 * z, y) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, guidance(net.net, z, t, 0 * z, y))
    assert net.training and net.drop.training and not net.frozen.training
    assert not torch.equal(net(z, t, t, y), net(z, t, t, y)), "the negative control"


@pytest.mark.parametrize("target", ["conditional", "exact"])
def test_no_gradient_reaches_the_target(target):
    """Not through data that asks for one either, nor through a velocity that is a network."""
    other = network()
    source = (
        {}
        if target == "conditional"
        else {"target_velocity": exact(lambda z, t, y: other(z, t, t))}
    )
    objective = MeanFlow(p_equal=0.5, **source)
    x = torch.randn(B, 2, dtype=torch.float64, requires_grad=True)
    net = network()
    value, aim = objective.prediction_and_target(net, objective.draw(x, None, context()), context())
    assert value.requires_grad and not aim.requires_grad
