"""Walks: orders of the solvers, exactness of jumps, domains, bad input."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel

from meanflow_lite.conventions import CONVENTIONS
from meanflow_lite.data import toys
from meanflow_lite.data.batches import seeded
from meanflow_lite.domains import (
    ANY,
    INSTANT,
    ONE_JUMP,
    TO_DATA,
    Domain,
    domain_of,
    drawn_by,
    dyadic,
    trained,
)
from meanflow_lite.fields import Conditioned, instantaneous
from meanflow_lite.guidance import ClassifierFree
from meanflow_lite.networks import MLP
from meanflow_lite.paths import Below, Ordered, Separate, ToData, Uniform
from meanflow_lite.samplers import (
    EVALUATIONS,
    check_labels,
    check_walk,
    euler,
    heun,
    integrate,
    jump_and_renoise,
    rk4,
    sample,
    uniform_times,
)
from meanflow_lite.training import Ema

TOY = toys.TOYS["product"]()
EPS = torch.randn(64, 2, generator=seeded(0), dtype=torch.float64)
EXACT = sample(TOY.average, EPS)
V = instantaneous(TOY.velocity)


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (heun, 2), (rk4, 4)])
def test_solvers_have_their_order(step, order):
    steps = [128, 256] if order < 4 else [64, 128]
    errors = [float((integrate(V, EPS, uniform_times(n), step=step) - EXACT).norm()) for n in steps]
    measured = math.log2(errors[0] / errors[1])
    assert abs(measured - order) < 0.25, measured
    assert EVALUATIONS[step] == order


def test_evaluations_are_counted_right():
    for step, per_step in EVALUATIONS.items():
        calls = []

        def v(z, r, t, y=None, calls=calls):
            calls.append(t)
            return z

        integrate(v, EPS, uniform_times(5), step=step)
        assert len(calls) == 5 * per_step


@pytest.mark.parametrize("times", [[1, 0.5, 0], [1, 0.9, 0.3, 0.05, 0], uniform_times(16)])
def test_jumps_of_the_exact_average_compose(times):
    torch.testing.assert_close(sample(TOY.average, EPS, times), EXACT, atol=1e-6, rtol=0)
    assert (sample(V, EPS, times) - EXACT).abs().max() > 1e-2  # Euler does not


def test_renoising_keeps_the_distribution_and_moves_the_points():
    n = 4000
    noises = [torch.randn(n, 2, generator=seeded(k), dtype=torch.float64) for k in range(2)]
    once = sample(TOY.average, noises[0])
    twice = jump_and_renoise(TOY.average, noises, [1, 0.7, 0])
    assert (once - twice).norm(dim=1).mean() > 0.1
    data = TOY.sample(n, seeded(7))[0].double()
    for moment in (1, 2, 3):
        spread = data.pow(moment).std(0) / math.sqrt(n) * math.sqrt(2)
        assert ((twice.pow(moment).mean(0) - data.pow(moment).mean(0)).abs() < 4 * spread).all()


def test_one_walk_for_every_shape():
    for shape in [(3,), (2, 2), (1, 4, 3, 3)]:
        eps = torch.randn(2, *shape)
        torch.testing.assert_close(sample(lambda z, r, t, y: z, eps), torch.zeros_like(eps))


@pytest.mark.parametrize(
    ("domain", "good", "bad"),
    [
        (ANY, [1, 0.3, 0], None),
        (INSTANT, None, [1, 0]),
        (TO_DATA, [1, 0], [1, 0.5, 0]),
        (ONE_JUMP, [1, 0], [0.5, 0]),
        (dyadic(3), [1, 0.5, 0.375, 0.25, 0], [1, 0.4, 0]),
        (dyadic(3), [1, 0], [0.75, 0.25, 0]),  # a jump of 1/2 from 3/4 is off its own grid
    ],
)
def test_a_field_is_only_walked_where_it_was_trained(domain, good, bad):
    net = trained(Net(), domain)
    if good:
        sample(net, EPS, good)
    if bad:
        with pytest.raises(ValueError, match="not trained for the jump"):
            sample(net, EPS, bad)
        sample(lambda *a: net(*a), EPS, bad)  # a plain callable is unrestricted


def test_renoising_accepts_what_jumps_to_the_data():
    jump_and_renoise(trained(Net(), TO_DATA), [EPS, EPS], [1, 0.5, 0])
    with pytest.raises(ValueError, match="not trained"):
        jump_and_renoise(trained(Net(), INSTANT), [EPS, EPS], [1, 0.5, 0])


@given(st.lists(st.floats(-0.5, 1.5), max_size=5))
def test_times_must_fall_within_the_unit_interval(times):
    valid = (
        len(times) >= 2
        and all(0 <= t <= 1 for t in times)
        and all(a > b for a, b in zip(times, times[1:], strict=False))
    )
    if valid:
        sample(lambda z, r, t, y: z, EPS, times)
    else:
        with pytest.raises(ValueError, match="times"):
            sample(lambda z, r, t, y: z, EPS, times)


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="at least 1"):
        uniform_times(0)
    with pytest.raises(ValueError, match="returns the shape"):
        sample(lambda z, r, t, y: z[:, :1], EPS)
    with pytest.raises(ValueError, match="one noise a jump"):
        jump_and_renoise(TOY.average, [EPS], [1, 0.5, 0])
    with pytest.raises(ValueError, match="last time"):
        jump_and_renoise(TOY.average, [EPS], [1, 0.5])


class Net(torch.nn.Module):
    """A field with dropout whose value says at which times and labels it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.drop = torch.nn.Dropout(0.5)
        self.asked: list = []

    def forward(self, z, r, t, y=None, **cond):
        self.asked.append((r, t, y, cond))
        return self.drop(self.scale.to(z.dtype) * z)


WALKS = {
    "sample": lambda u, z, times, y=None: sample(u, z, times, y),
    "integrate": lambda u, z, times, y=None: integrate(u, z, times, y),
    "heun": lambda u, z, times, y=None: integrate(u, z, times, y, heun),
    "renoise": lambda u, z, times, y=None: jump_and_renoise(
        u, [z] * (times if isinstance(times, int) else len(times) - 1), times, y
    ),
}

HALF = [1, 0.5, 0]
# which walks along [1, .5, 0] each domain trains
ALLOWED = {
    INSTANT: {"integrate", "heun"},
    ANY: set(WALKS),
    TO_DATA: {"renoise"},
    Domain("to_data", equal=True): {"renoise", "integrate", "heun"},
    ONE_JUMP: set(),
    dyadic(3): {"sample", "renoise"},
}

WRAPPERS = {
    "the network": lambda u: u,
    "an average": lambda u: Ema(u, 0.9).net,
    "partial": lambda u: partial(u, omega=1.0),
    "two partials": lambda u: partial(partial(u, omega=1.0), kappa=0.0),
    "its forward": lambda u: u.forward,
    "Conditioned": lambda u: Conditioned(u, {"omega": torch.ones(64)}),
    "DataParallel": torch.nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compiled": lambda u: torch.compile(u, backend="eager"),
    "translated": lambda u: CONVENTIONS["start, then end"].to_field(
        trained(Swapped(u), domain_of(u))
    ),
    "mixed averages": lambda u: ClassifierFree(u, 3, 2.0, average=True),
    "all": lambda u: partial(Conditioned(torch.nn.DataParallel(u), {"omega": torch.ones(64)})),
}


class Swapped(torch.nn.Module):
    def __init__(self, u: torch.nn.Module) -> None:
        super().__init__()
        self.u = u

    def forward(self, z, t, r, y=None):
        return self.u(z, r, t, y)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("domain", ALLOWED, ids=str)
def test_every_walk_asks_for_each_jump_through_every_wrapper(wrapper, domain):
    field = WRAPPERS[wrapper](trained(Net(), domain))
    y = torch.zeros(64, dtype=torch.long) if wrapper == "mixed averages" else None
    assert domain_of(field) == domain
    for name, walk in WALKS.items():
        if name in ALLOWED[domain]:
            assert walk(field, EPS, HALF, y).shape == EPS.shape
        else:
            with pytest.raises(ValueError, match="not trained"):
                walk(field, EPS, HALF, y)


def test_the_second_jump_of_a_renoising_walk_is_asked_too():
    walk = WALKS["renoise"]
    walk(trained(Net(), dyadic(3)), EPS, [1, 0.25, 0])
    with pytest.raises(ValueError, match="0.6 -> 0"):
        walk(trained(Net(), dyadic(3)), EPS, [1, 0.6, 0])


def test_a_guided_mix_knows_only_instants_unless_it_is_said_otherwise():
    y = torch.zeros(64, dtype=torch.long)
    mix = ClassifierFree(trained(Net(), ANY), 3, 2.0)
    integrate(mix, EPS, 4, y)
    with pytest.raises(ValueError, match="average=True"):
        sample(mix, EPS, 4, y)
    with pytest.raises(ValueError, match="not trained at r = t"):
        integrate(ClassifierFree(trained(Net(), TO_DATA), 3, 2.0), EPS, 4, y)


@pytest.mark.parametrize("walk", WALKS)
def test_a_count_of_steps_stands_for_equal_steps(walk):
    a, b = (WALKS[walk](TOY.average, EPS, times) for times in (4, uniform_times(4)))
    assert torch.equal(a, b) and not torch.equal(a, WALKS[walk](TOY.average, EPS, 3))


@pytest.mark.parametrize(
    "times", [True, 4.0, torch.tensor([1, 0]), torch.tensor(3), None, [1], 0, -2], ids=str
)
def test_what_is_no_walk_is_named(times):
    with pytest.raises(ValueError, match="times|steps"):
        check_walk(times)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize(
    "y",
    [[2] * 64, 2, torch.full((64,), 2, dtype=torch.uint8), torch.full((64,), 2).int()],
    ids=["list", "int", "uint8", "int32"],
)
def test_labels_arrive_as_one_integer_a_row(walk, y):
    net = Net()
    WALKS[walk](net, EPS, 2, y)
    for _, _, told, _ in net.asked:
        assert told.dtype == torch.long and torch.equal(told, torch.full((64,), 2))


@pytest.mark.parametrize(
    "y",
    [[2] * 3, torch.tensor([2]), torch.tensor(2), torch.full((64,), 2.0), [True] * 64, 4, -1, 2.5],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(y):
    net = Net()
    net.num_classes = 3
    assert check_labels(3, 64, partial(net)) is not None  # the null label
    with pytest.raises(ValueError, match="labels y"):
        check_labels(y, 64, partial(net))


def test_walks_check_labels_against_the_network():
    net = Net()
    net.num_classes = 3
    for walk in WALKS.values():
        with pytest.raises(ValueError, match="0 ... 2, or 3"):
            walk(Conditioned(net, {}), EPS, 2, 4)


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_puts_networks_to_eval_and_leaves_them_as_they_were(walk):
    net = Net()
    net.drop.eval()
    net.still = torch.nn.Dropout(0.5)
    a, b = (WALKS[walk](partial(net), EPS, 2) for _ in range(2))
    assert torch.equal(a, b)
    assert [m.training for m in net.modules()] == [True, False, True]
    broken = partial(net, {})  # and also when the walk ends in an error
    with pytest.raises(TypeError):
        WALKS[walk](broken, EPS, 2, None)
    assert net.training
    assert not torch.equal(net.still(EPS), net.still(EPS))  # the control: dropout is random


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_in_half_precision_is_told_times_in_full(walk, dtype):
    net = Net()
    out = WALKS[walk](net, EPS.to(dtype), [1, 0.9, 0.3, 0])
    assert out.dtype == dtype
    told = {float(t[0]) for _, t, _, _ in net.asked}
    assert told <= {float(torch.tensor(s)) for s in (1, 0.9, 0.3, 0)} and len(told) >= 3
    assert all(t.dtype == torch.float32 for _, t, _, _ in net.asked)


@pytest.mark.parametrize("walk", WALKS)
def test_an_empty_batch_stays_empty(walk):
    assert WALKS[walk](MLP(2, 8, 2), torch.zeros(0, 2), 2).shape == (0, 2)


def test_a_network_without_labels_is_a_field():
    class Bare(torch.nn.Module):
        def forward(self, z, r, t):
            return z * (t - r)[:, None]

    for u in (Bare(), Bare().forward, lambda z, r, t: z, torch.compile(Bare(), backend="eager")):
        assert sample(u, EPS, 2).shape == EPS.shape
    with pytest.raises(ValueError, match="takes no labels"):
        sample(Bare(), EPS, 2, 1)
    with pytest.raises(ValueError, match="net\\(z, r, t, y\\)"):
        sample(lambda z, t: z, EPS, 2)


def test_an_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="one of instant"):
        Domain("everything")


class Late:
    """A law of a reader's own that always jumps from 1."""

    def __call__(self, time):
        t = torch.ones_like(time(Uniform()))
        return torch.zeros_like(t), t


@pytest.mark.parametrize(
    ("pair", "p_equal", "expected"),
    [
        (Ordered(), 0.5, ANY),
        (Ordered(), 0.0, ANY),
        (Ordered(), 1.0, INSTANT),
        (Below(), 0.0, ANY),
        (Separate(), 0.0, ANY),
        (ToData(), 0.0, TO_DATA),
        (ToData(), 0.5, Domain("to_data", equal=True)),
        (ToData(), 1.0, INSTANT),
        (Late(), 0.0, ONE_JUMP),
        (Late(), 0.25, Domain("one_jump", equal=True)),
        (lambda time: (t := time(Uniform()), t), 0.0, INSTANT),
    ],
)
def test_a_domain_follows_from_the_law_of_times(pair, p_equal, expected):
    assert drawn_by(pair, p_equal) == expected
