"""The loop: what it optimizes, averages and splits. No method's name appears in it."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from meanflow_lite.data import toys
from meanflow_lite.data.batches import Ahead, FromDistribution, FromTensors, epoch_rows, seeded
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import (
    INSTANT,
    FlowMatching,
    Loss,
    MeanFlow,
    domain_of,
)
from meanflow_lite.objectives.base import Draw, SingleStage
from meanflow_lite.paths import Ordered, Uniform
from meanflow_lite.training import Diverged, Ema, TrainConfig, Trainer, curve, train

DATA = FromDistribution(toys.TOYS["ring"]())
SMALL = TrainConfig(steps=8, batch=24, ema=(0.9, 0.2))


def network(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    net = MLP(2, width=16, depth=2)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    return net


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_same_seed_same_weights_and_another_seed_others():
    runs = [train(network(), MeanFlow(), DATA, replace(SMALL, seed=s))[0] for s in (0, 0, 1)]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_give_the_gradient_of_the_whole_batch(accumulate):
    whole, _ = train(network(), MeanFlow(), DATA, SMALL)
    split, _ = train(network(), MeanFlow(), DATA, replace(SMALL, accumulate=accumulate))
    # float32 sums in another order, through Adam for 8 steps
    torch.testing.assert_close(weights(whole), weights(split), atol=2e-5, rtol=1e-4)
    other, _ = train(network(), MeanFlow(), DATA, replace(SMALL, batch=12))
    assert (weights(whole) - weights(other)).abs().max() > 1e-3


def test_ema_is_its_recursion_with_a_ramp():
    trainer = Trainer(network(), MeanFlow(), DATA, SMALL)
    expected = [weights(trainer.net)] * 2
    for n, _ in enumerate(trainer.run()):
        now = weights(trainer.net)
        for k, rate in enumerate(SMALL.ema):
            decay = min(rate, (1 + n) / (10 + n))
            expected[k] = decay * expected[k] + (1 - decay) * now
    for average, value in zip(trainer.averages, expected, strict=True):
        torch.testing.assert_close(weights(average.net), value)
    assert not torch.allclose(expected[0], expected[1])


def test_records_are_yielded_after_the_step():
    trainer = Trainer(network(), MeanFlow(), DATA, SMALL)
    before = weights(trainer.net).clone()
    record = next(trainer.run())
    assert record.step == trainer.step == 1
    assert not torch.equal(weights(trainer.net), before)
    assert set(record.watch) == {"error", "velocity_error", "jump_error"}


def test_the_field_knows_its_domain():
    field, history = train(network(), FlowMatching(), DATA, SMALL)
    assert domain_of(field) == INSTANT
    assert curve(history, "velocity_error").shape == curve(history, "loss").shape == (8,)


def test_learning_rate_warms_up_and_cools_down():
    config = TrainConfig(steps=100, lr=2.0, warmup=10, cooldown=0.5)
    rates = [config.lr_at(k) for k in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(2.0)
    assert rates[49] == pytest.approx(2.0) and rates[-1] == pytest.approx(2.0 / 50)


def test_training_lowers_the_exact_error():
    toy = toys.TOYS["gaussian"]()
    config = TrainConfig(steps=300, batch=256, lr=3e-3, cooldown=0.5)
    z = torch.randn(500, 1, generator=seeded(5))
    r, t = torch.zeros(500), torch.ones(500)
    errors = []
    for steps in (1, 1000):
        torch.manual_seed(0)
        config = replace(config, steps=steps)
        objective = MeanFlow(p=0.0, p_equal=0.5, pair=Ordered(Uniform()))
        field, _ = train(MLP(1, 32, 2), objective, FromDistribution(toy), config)
        errors.append((field(z, r, t) - toy.average(z, r, t)).pow(2).mean().sqrt())
    assert errors[1] < 0.2 * errors[0]


class Exploding(SingleStage):
    domain = INSTANT

    def draw(self, x, y, ctx):
        return Draw(x, y, x, x[:, 0], x[:, 0])

    def __call__(self, u, draw, ctx):
        scale = torch.where(ctx.progress > 0.4, float("nan"), 1.0)
        return Loss(u(draw.x, draw.r, draw.t).sum(1) * scale, {})


def test_divergence_stops_before_the_weights_are_lost():
    trainer = Trainer(network(), Exploding(), DATA, SMALL)
    with pytest.raises(Diverged, match="step 4"):
        list(trainer.run())
    assert trainer.step == 4 and torch.isfinite(weights(trainer.net)).all()


class Cliff(Exploding):
    """A finite loss whose gradient is not: the root of zero."""

    def __call__(self, u, draw, ctx):
        predicted = u(draw.x, draw.r, draw.t)
        zero = (predicted - predicted.detach()).square().sum(1)
        return Loss(predicted.sum(1) + torch.where(ctx.progress > 0.4, zero, zero + 1).sqrt(), {})


def test_a_gradient_that_is_not_finite_stops_too():
    """The loss alone would show it a step later, when the weights and their average are lost."""
    trainer = Trainer(network(), Cliff(), DATA, SMALL)
    with pytest.raises(Diverged, match="gradient's norm nan at step 4"):
        list(trainer.run())
    for net in (trainer.net, trainer.averages[0].net):
        assert torch.isfinite(weights(net)).all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_drawing_ahead_gives_the_same_bits(accumulate):
    """What a thread does for a GPU, here on the CPU; after a jump in the steps too."""
    config = replace(SMALL, accumulate=accumulate)
    nets = []
    for ahead in (False, True):
        trainer = Trainer(network(), MeanFlow(), DATA, config, ahead=ahead)
        list(trainer.run(until=5))
        trainer.step = 2  # as from an older checkpoint
        list(trainer.run())
        assert isinstance(trainer._draws, Ahead) == ahead
        nets.append(weights(trainer.net))
    assert torch.equal(*nets)


class Staged(Exploding):
    def stage(self, progress):
        return int(progress >= 0.5)

    def __call__(self, u, draw, ctx):
        return Loss(u(draw.x, draw.r, draw.t).pow(2).sum(1), {})


def test_a_new_stage_freezes_a_teacher_and_starts_the_optimizer_afresh():
    trainer = Trainer(network(), Staged(), DATA, SMALL)
    list(trainer.run(until=4))
    assert trainer.teacher is None
    at_switch = weights(trainer.net).clone()
    moments = copy.deepcopy(trainer.optimizer.state_dict()["state"][0]["step"])
    list(trainer.run(until=5))
    assert torch.equal(weights(trainer.teacher), at_switch)
    assert not any(p.requires_grad for p in trainer.teacher.parameters())
    assert moments == 4 and trainer.optimizer.state_dict()["state"][0]["step"] == 1


def test_a_compiled_step_is_the_step(monkeypatch):
    """Traced, and run without generating code, which takes a minute. That every objective is one
    graph is tested beside their interface."""
    torch.compiler.reset()
    compiled = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda g, _: compiled.append(g) or g)
    )
    nets = [
        train(network(), FlowMatching(), DATA, replace(SMALL, steps=2, compile=c, accumulate=2))[0]
        for c in (False, True)
    ]
    assert compiled
    torch.testing.assert_close(*(weights(net) for net in nets), atol=1e-5, rtol=1e-4)


def test_epochs_visit_every_row_once():
    n, size = 10, 4
    seen = torch.cat([epoch_rows(n, step, size, seed=0) for step in range(5)])
    assert torch.equal(seen[:n].sort().values, torch.arange(n))
    assert torch.equal(seen[n:].sort().values, torch.arange(n))
    assert not torch.equal(seen[:n], seen[n:])
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    batches = FromTensors(x, y)
    whole = batches(0, 6, 0)[0]
    parts = [batches(0, 6, 0, part, 3)[0] for part in range(3)]
    assert torch.equal(torch.stack(parts, 1).reshape(-1, 1), whole)


def test_seeds_are_all_different():
    draws = {
        int(torch.randint(2**62, (1,), generator=seeded(s, k)))
        for s in range(20)
        for k in range(20)
    }
    assert len(draws) == 400


def test_bad_settings_are_named():
    for settings, match in [
        ({"steps": 0}, "steps"),
        ({"lr": 0.0}, "lr"),
        ({"cooldown": 2.0}, "cooldown"),
        ({"ema": ()}, "ema"),
    ]:
        with pytest.raises(ValueError, match=match):
            TrainConfig(**settings)
    with pytest.raises(ValueError, match="divide"):
        Trainer(network(), MeanFlow(), DATA, replace(SMALL, accumulate=5))
    with pytest.raises(ValueError, match="rate"):
        Ema(network(), 1.0)
    with pytest.raises(ValueError, match="NaN"):
        FromTensors(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="labels"):
        FromTensors(torch.zeros(3, 1), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="larger than the data set"):
        epoch_rows(3, 0, 4, 0)
