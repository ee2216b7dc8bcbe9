"""The library in a reader's own loop: one line a loss, settings that cannot be right refused."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from meanflow_lite.conventions import CONVENTIONS
from meanflow_lite.data.batches import FromLoader, FromTensors
from meanflow_lite.domains import ANY, INSTANT, Domain, domain_of
from meanflow_lite.fields import Gaussian, GaussianMixture, ProductMixture, as_field
from meanflow_lite.guidance import ClassifierFree, Guidance, LabelDropout, Scales
from meanflow_lite.identity import NoForwardDerivative, finite_difference, total_derivative
from meanflow_lite.losses import adaptive_weight, pseudo_huber
from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.objectives import (
    OBJECTIVES,
    AdversarialDistillation,
    AlphaFlow,
    Consistency,
    Context,
    Drifting,
    FlowMatching,
    ImprovedMeanFlow,
    LagrangianSelfDistillation,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
)
from meanflow_lite.objectives.limits import not_here
from meanflow_lite.objectives.phases import Phases
from meanflow_lite.objectives.schedules import Constant, Sigmoid
from meanflow_lite.objectives.settings import check_fit
from meanflow_lite.paths import LogitNormal, ToData, count_equal
from meanflow_lite.randomness import Random
from meanflow_lite.training import TrainConfig, Trainer, train


def make(name: str, classes: int = 3):
    if name == "adversarial_distillation":
        return AdversarialDistillation(MLPDiscriminator(2, 8, classes))
    return OBJECTIVES[name]()


def awake(classes: int = 3) -> MLP:
    net = MLP(2, 8, 2, num_classes=classes)
    nn.init.normal_(net.last.weight, std=0.5)
    return net


class Bare(nn.Module):
    """An unconditional network of a reader: no labels in its call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, z, r, t):
        return self.layer(torch.cat([z, r[:, None], t[:, None]], 1)).tanh()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_line_is_the_loss_of_the_same_draws(name, seed):
    torch.manual_seed(seed)
    net, teacher, average, objective = awake(), awake(), awake(), make(name)
    x, y = torch.randn(16, 2), torch.randint(3, (16,))
    line = objective.loss(net, x, y, seed=seed, progress=0.3, u_ema=average, teacher=teacher)
    ctx = Context(average, teacher, torch.tensor(0.3), Random(seed))
    draw = objective.draw(x, y, ctx)
    assert torch.equal(line, objective(net, draw, ctx).per_sample.mean())
    other = objective.loss(net, x, y, seed=seed + 1, progress=0.3, u_ema=average, teacher=teacher)
    assert not torch.equal(line, other)
    line.backward()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_network_without_labels_trains_by_one_line_and_in_the_trainer(name):
    net = Bare()
    objective = make(name, 0)
    loss = objective.loss(net, torch.randn(8, 2), teacher=Bare())
    loss.backward()
    assert loss.isfinite() and net.layer.weight.grad is not None
    with pytest.raises(ValueError, match="takes no labels"):
        make(name, 3).loss(net, torch.randn(8, 2), [0] * 8, teacher=net)


def test_draws_come_from_a_seed_a_generator_or_pytorch():
    net, x = awake(0), torch.randn(8, 2)
    line = MeanFlow(p=0.0).loss
    torch.manual_seed(1)
    first, second = line(net, x), line(net, x)
    torch.manual_seed(1)
    assert torch.equal(line(net, x), first) and not torch.equal(first, second)
    given = [line(net, x, seed=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert torch.equal(given[0], given[1]) and not torch.equal(given[0], given[2])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bad_batches_are_named(name):
    net, objective = awake(), make(name)
    for x, y, said in (
        (torch.zeros(0, 2), None, "batch has rows"),
        (torch.zeros(4, 2, dtype=torch.long), None, "floating point"),
        (torch.zeros(4, 2), [0, 1], "labels y"),
        (torch.zeros(4, 2), [0, 1, 2, 4], "labels y"),
        (torch.zeros(4, 2), torch.zeros(4), "labels y"),
    ):
        with pytest.raises(ValueError, match=said):
            objective.loss(net, x, y, teacher=net)
    with pytest.raises(ValueError, match="progress"):
        objective.loss(net, torch.zeros(4, 2), [0] * 4, progress=1.5, teacher=net)


GUIDED = MeanFlow(guidance=Guidance(10, 2.0), dropout=LabelDropout(10, 0.1))


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (replace(GUIDED, dropout=None), "dropout=LabelDropout\\(10"),
        (replace(GUIDED, dropout=LabelDropout(10, 0.0)), "dropout=LabelDropout\\(10"),
        (
            MeanFlow(guidance=Guidance(9, 2.0), dropout=LabelDropout(9)),
            "null = 9 is one of its classes",
        ),
        (
            MeanFlow(guidance=Guidance(11, 2.0), dropout=LabelDropout(11)),
            "null = 11 is none of its labels",
        ),
        (MeanFlow(dropout=LabelDropout(3)), "null = 3 is one of its classes"),
        (FlowMatching(dropout=LabelDropout(3)), "null = 3 is one of its classes"),
        (Consistency(dropout=LabelDropout(3)), "null = 3 is one of its classes"),
        (
            Phases(MeanFlow(), replace(GUIDED, dropout=None), 0.5),
            "dropout=LabelDropout\\(10",
        ),
    ],
)
def test_settings_that_do_not_fit_a_network_are_refused(objective, said):
    net, x, y = awake(10), torch.randn(16, 2), torch.arange(16) % 10
    GUIDED.loss(net, x, y)
    with pytest.raises(ValueError, match=said):
        objective.loss(net, x, y)


def test_a_network_must_know_what_is_trained():
    with pytest.raises(ValueError, match="with labels"):
        GUIDED.loss(awake(0), torch.randn(8, 2), [0] * 8)
    with pytest.raises(ValueError, match="data has none"):
        GUIDED.loss(awake(10), torch.randn(8, 2))
    net = CONVENTIONS["data at one"].to_field(lambda x, s, y=None: x)
    check_fit(FlowMatching(), net)
    for objective in (MeanFlow(), Shortcut(), Consistency(), Drifting()):
        with pytest.raises(ValueError, match="not told r"):
            check_fit(objective, net)


SIMPLE = MeanFlow()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Guidance(10, math.nan), "omega"),
        (lambda: Guidance(10, math.inf), "omega"),
        (lambda: Guidance(-1), "null label"),
        (lambda: Guidance(3, kappa=math.nan), "kappa"),
        (lambda: Guidance(3, interval=(0.8, 0.2)), "interval"),
        (lambda: LabelDropout(-1), "null label"),
        (lambda: LabelDropout(3, 1.5), "rate"),
        (lambda: LabelDropout(3, math.nan), "rate"),
        (lambda: Scales(1.0, math.inf), "high"),
        (lambda: Scales(1.0, 4.0, math.nan), "beta"),
        (lambda: ClassifierFree(lambda z, r, t, y: z, 3, math.nan), "omega"),
        (lambda: ClassifierFree(awake(3), 2, 2.0), "null = 2 is one of"),
        (lambda: Constant(2.0), "alpha"),
        (lambda: Constant(-1.0), "alpha"),
        (lambda: Constant(math.nan), "alpha"),
        (lambda: Sigmoid(0.5, 0.5), "start < end"),
        (lambda: Sigmoid(gamma=-1.0), "gamma"),
        (lambda: Sigmoid(snap=0.6), "snap"),
        (lambda: LogitNormal(math.nan), "mean"),
        (lambda: LogitNormal(std=math.inf), "std"),
        (lambda: AdversarialDistillation(MLPDiscriminator(2), times=(2.0,)), "times"),
        (lambda: AdversarialDistillation(MLPDiscriminator(2), times=()), "times"),
        (lambda: AdversarialDistillation(MLPDiscriminator(2), distill=-1.0), "distill"),
        (lambda: AdversarialDistillation(MLPDiscriminator(2), penalty=math.nan), "penalty"),
        (lambda: Phases(SIMPLE, SIMPLE, -1.0), "share"),
        (lambda: Phases(SIMPLE, SIMPLE, 2.0), "share"),
        (lambda: Phases(SIMPLE, SIMPLE, math.nan), "share"),
        (lambda: Phases(SIMPLE, ProgressiveDistillation(), 0.5), "stages"),
        (lambda: Phases(ProgressiveDistillation(), SIMPLE, 0.5), "stages"),
        (lambda: Phases(Phases(SIMPLE, SIMPLE, 0.5), SIMPLE, 0.5), "stages"),
        (
            lambda: Phases(SIMPLE, AdversarialDistillation(MLPDiscriminator(2)), 0.5),
            "parameters of its own",
        ),
        (lambda: Phases(Shortcut(target_ema=0.9), TerminalVelocity(), 0.5), "target_ema"),
        (
            lambda: Phases(
                FlowMatching(dropout=LabelDropout(3)), MeanFlow(dropout=LabelDropout(4)), 0.5
            ),
            "null label",
        ),
        (lambda: GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0], [0, 2]), "without a gap"),
        (lambda: GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0], [-1, 0]), "without a gap"),
        (
            lambda: GaussianMixture(
                [0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0], torch.tensor([0.7, 1.2])
            ),
            "whole numbers",
        ),
        (lambda: GaussianMixture([1.0], [[0.0]], [math.inf]), "finite"),
        (lambda: Gaussian([0.0], [math.inf]), "finite"),
        (lambda: ProductMixture([[1.0]], [[0.0]], [[math.inf]]), "finite"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize("which", [{"p": math.inf}, {"p": -1.0}, {"c": -1.0}, {"c": math.inf}])
def test_weights_that_cannot_be_right_are_refused(which):
    with pytest.raises(ValueError, match="adaptive weight"):
        adaptive_weight(torch.ones(2), **{"p": 1.0, "c": 1e-3} | which)
    with pytest.raises(ValueError, match="pseudo-Huber"):
        pseudo_huber(torch.ones(2), -1.0)


def test_phases_hand_on_the_average_of_their_targets():
    assert Phases(FlowMatching(), TerminalVelocity(), 0.5).target_ema == 0.99
    assert Phases(TerminalVelocity(), FlowMatching(), 0.5).target_ema == 0.99
    assert Phases(FlowMatching(), MeanFlow(), 0.5).target_ema is None


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 64])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75, 0.875, 0.999])
def test_a_share_keeps_a_row_of_each_kind(n, share):
    assert 1 <= count_equal(share, n) <= n - 1
    assert abs(count_equal(share, n) - share * n) <= 1
    assert count_equal(0.0, n) == 0 and count_equal(1.0, n) == n
    with pytest.raises(ValueError, match="batch of one row"):
        count_equal(share, 1)


@pytest.mark.parametrize("c", [0.0, 1e-3])
def test_rows_without_error_have_a_finite_weight_and_gradient(c):
    error = torch.tensor([0.0, 4.0], requires_grad=True)
    (error * adaptive_weight(error, 1.0, c)).sum().backward()
    assert error.grad is not None and error.grad.isfinite().all() and error.grad[1] > 0
    error.grad = None
    distance = pseudo_huber(error, c)
    distance.sum().backward()
    assert error.grad.isfinite().all() and distance[0] == 0
    torch.testing.assert_close(error.grad[1], torch.tensor(0.5 / (4 + c * c) ** 0.5))
    loss = Consistency(huber=c).loss(lambda z, r, t, y=None: z, torch.zeros(8, 2))
    assert loss.isfinite()


def test_alphaflow_at_no_error_and_no_constant():
    assert AlphaFlow(Constant(0.5), c=0.0).loss(awake(0), torch.randn(8, 2)).isfinite()


class Layered(nn.Module):
    """An image network around one layer of interest."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.layer = layer

    def forward(self, z, r, t):
        told = torch.stack([r, t], 1)[:, None].expand(-1, z.shape[1], -1)
        return self.last(self.layer(self.first(torch.cat([z, told], 2))))


class Fused(nn.Module):
    def forward(self, h):
        return nn.functional.scaled_dot_product_attention(h, h, h)


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, h):
        return self.attention(h, h, h, need_weights=False)[0]


class Batched(nn.Module):
    def __init__(self, track: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=track)

    def forward(self, h):
        return self.norm(h.transpose(1, 2)).transpose(1, 2)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, h):
        return checkpoint(self.layer, h, use_reentrant=False)


class Custom(nn.Module):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return 2 * h

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    def forward(self, h):
        return self.Double.apply(h)


WITH_DERIVATIVE = {
    "fused attention": Fused,
    "multihead": Multihead,
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True),
    "group norm": lambda: nn.LayerNorm(8),
    "batch norm without statistics": lambda: Batched(track=False),
}
WITHOUT = {"BatchNorm": Batched, "checkpointing": Checkpointed, "autograd.Function": Custom}
JVP = [MeanFlow(p_equal=0.5), Consistency(steps=None), TerminalVelocity()]


@pytest.mark.parametrize("name", WITH_DERIVATIVE)
@pytest.mark.parametrize("objective", JVP, ids=lambda o: type(o).__name__)
def test_foreign_layers_are_trained_through(name, objective):
    net = Layered(WITH_DERIVATIVE[name]())
    objective.loss(net, torch.randn(8, 5, 4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.parametrize("objective", JVP, ids=lambda o: type(o).__name__)
def test_layers_without_a_derivative_are_named(name, objective):
    net = Layered(WITHOUT[name]())
    with pytest.raises(NoForwardDerivative, match=name):
        objective.loss(net, torch.randn(8, 5, 4))
    if name != "BatchNorm":
        by_differences = MeanFlow(derivative=partial(finite_difference, step=1e-2))
        by_differences.loss(net, torch.randn(8, 5, 4)).backward()


def test_the_derivative_by_the_plain_kernel_is_the_derivative(float64):
    net = Layered(Multihead()).eval()
    z, r, t, v = torch.randn(8, 5, 4), torch.zeros(8), torch.rand(8), torch.randn(8, 5, 4)
    u = as_field(net)
    with torch.no_grad():  # where PyTorch would take its fused encoder
        _, exact = total_derivative(u, z, r, t, v)
        h = 1e-5
        ends = [net(z + k * h * v, r, t + k * h) for k in (1, -1)]
    torch.testing.assert_close(exact, (ends[0] - ends[1]) / (2 * h), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("labels", [True, False])
def test_a_dataloader_feeds_the_training(labels):
    x = torch.arange(70.0)[:, None].expand(-1, 2) / 70
    rows = TensorDataset(x, torch.arange(70) % 3) if labels else x
    loader = DataLoader(rows, batch_size=16, shuffle=True)  # pyright: ignore
    batches = FromLoader(loader)
    for _ in range(3):  # three epochs of four whole batches
        got = torch.cat([batches(0, 16, 0)[0][:, 0] for _ in range(4)])
        assert len(got.unique()) == 64
    net = awake(3 if labels else 0)
    _, history = train(net, MeanFlow(), loader, TrainConfig(steps=6, batch=16))
    assert len(history) == 6
    with pytest.raises(ValueError, match="same number"):
        train(net, MeanFlow(), loader, TrainConfig(steps=1, batch=8))
    with pytest.raises(ValueError, match="one process"):
        train(net, MeanFlow(), loader, TrainConfig(steps=1, batch=16, accumulate=2))
    with pytest.raises(ValueError, match="no batch of 80"):
        FromLoader(DataLoader(x, batch_size=80))(0, 80, 0)  # pyright: ignore


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.AdamW, weight_decay=0.5), partial(torch.optim.SGD, lr=1.0)]
)
def test_the_optimizer_and_a_schedule_may_be_given(optimizer):
    net, config = awake(0), TrainConfig(steps=4, batch=8, lr=0.1, warmup=2)
    data = FromTensors(torch.randn(16, 2))
    trainer = Trainer(net, MeanFlow(), data, config, optimizer=optimizer, schedule=lambda p: 1 - p)
    records = [*trainer.run()]
    assert isinstance(trainer.optimizer, optimizer.func)
    assert [r.lr for r in records] == pytest.approx([0.05, 0.1 * 0.75, 0.1 * 0.5, 0.1 * 0.25])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


ON_PAIRS = (MeanFlow, ImprovedMeanFlow, AlphaFlow, SplitMeanFlow)


@pytest.mark.parametrize("kind", [*ON_PAIRS, LagrangianSelfDistillation, TerminalVelocity])
def test_the_domain_of_an_objective_follows_from_its_laws(kind):
    assert kind().domain == ANY
    data = Domain("to_data", equal=True)
    if kind is SplitMeanFlow:
        with pytest.raises(ValueError, match="any two times"):
            kind(pair=ToData())
    else:
        assert kind(pair=ToData()).domain == data
    if kind is not TerminalVelocity:
        assert kind(p_equal=1.0).domain == INSTANT
        with pytest.raises(ValueError, match="share of rows"):
            kind(p_equal=1.5)
    net = awake(0)
    trainer = Trainer(net, kind(), FromTensors(torch.randn(8, 2)), TrainConfig(steps=1, batch=4))
    list(trainer.run())
    copies = [net, trainer.field, *(a.net for a in trainer.averages)]
    copies += [trainer.target.net] if trainer.target else []
    assert all(domain_of(copy) == ANY and hasattr(copy, "domain") for copy in copies)


def test_an_objective_refuses_two_null_labels_when_it_is_built():
    with pytest.raises(ValueError, match="two null labels"):
        MeanFlow(guidance=Guidance(10, 2.0), dropout=LabelDropout(9))


@pytest.mark.parametrize(
    "bad", [{"steps": math.nan}, {"steps": 2.5}, {"warmup": math.nan}, {"lr": math.inf}], ids=str
)
def test_counts_are_whole_numbers(bad):
    config, ((name, value),) = TrainConfig(), bad.items()
    object.__setattr__(config, name, value)  # past the check of types, which only tests have
    with pytest.raises(ValueError, match=name):
        config.__post_init__()


def test_each_method_says_what_of_its_source_is_not_here(monkeypatch):
    said = not_here()
    assert said.keys() == OBJECTIVES.keys()
    assert all(len(text) > 30 and text.endswith(".") for text in said.values())
    monkeypatch.setattr("meanflow_lite.objectives.shortcut.__doc__", "A method. Nothing else.")
    with pytest.raises(ValueError, match="shortcut"):
        not_here()
