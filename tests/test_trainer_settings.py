"""Each setting of the trainer does what it says; which copy of the network is where."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.networks import MLP
from meanflow_lite.networks.mlp import MLPDiscriminator
from meanflow_lite.objectives import AdversarialDistillation, FlowMatching, Loss, Shortcut
from meanflow_lite.objectives.base import SingleStage
from meanflow_lite.training import TrainConfig, Trainer

X, Y = torch.randn(64, 2), torch.arange(64) % 3
DATA = FromTensors(X, Y)
SMALL = TrainConfig(steps=6, batch=16, ema=(0.2,), lr=1e-2)


class Counting(nn.Module):
    """A network with a buffer, and with a mode: it notes in which it was called."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = MLP(2, 16, 2, num_classes=3)
        nn.init.normal_(self.net.last.weight, std=0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.modes: list[bool] = []

    def forward(self, z, r, t, y=None):
        self.modes.append(self.training)
        if self.training:
            self.calls += 1
        return self.net(z, r, t, y)


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


@dataclass(frozen=True)
class Watching(SingleStage):
    """Flow matching that notes the weights of the average it is handed."""

    target_ema: float | None = 0.7
    seen: tuple = ()

    domain = FlowMatching.domain

    def draw(self, x, y, ctx):
        return FlowMatching().draw(x, y, ctx)

    def __call__(self, u, draw, ctx):
        SEEN.append((ctx.u_ema, weights(ctx.u_ema), ctx.u_ema.training))
        return FlowMatching()(u, draw, ctx)


SEEN: list = []


@pytest.mark.parametrize("rate", [None, 0.5, 0.7])
def test_targets_see_their_own_average_and_it_is_its_recursion(rate):
    """Not the one for sampling, unless the method has none; not the network, and not a copy of
    the start."""
    SEEN.clear()
    trainer = Trainer(Counting(), Watching(rate), DATA, replace(SMALL, ema=(0.2, 0.9)))
    expected = weights(trainer.net)
    for n, _ in enumerate(trainer.run()):
        torch.testing.assert_close(SEEN[n][1], expected)
        assert SEEN[n][0] is not trainer.net and not SEEN[n][2]
        decay = min(0.2 if rate is None else rate, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weights(trainer.net)
    assert (SEEN[-1][1] - SEEN[0][1]).norm() > 1e-2
    if rate is not None:
        assert not torch.allclose(SEEN[-1][1], weights(trainer.averages[0].net), atol=1e-4)


def test_shortcut_bootstraps_from_its_average():
    """Through the trainer: a first step from a trainer whose average was moved is another step."""
    moved = []
    for scale in (1.0, 1.5):
        trainer = Trainer(Counting(), Shortcut(levels=3, p_base=0.5), DATA, SMALL)
        assert trainer.target is not None and trainer.target.rate == 0.999
        with torch.no_grad():
            for p in trainer.target.net.parameters():
                p.mul_(scale)
        next(trainer.run())
        moved.append(weights(trainer.net))
    assert not torch.equal(*moved)


def test_buffers_of_the_averages_follow_and_they_are_for_sampling():
    trainer = Trainer(Counting(), Shortcut(levels=3), DATA, SMALL)
    list(trainer.run())
    assert trainer.net.training and trainer.net.calls == 6
    for average in (*trainer.averages, trainer.target):
        assert average.net.calls == 6 and not average.net.training
        assert not any(p.requires_grad for p in average.net.parameters())
    assert all(trainer.net.modes)  # the network itself is only asked as it trains


def test_the_network_trains_after_someone_sampled_from_it():
    trainer = Trainer(Counting(), FlowMatching(), DATA, SMALL)
    run = trainer.run()
    next(run)
    trainer.net.eval()
    list(trainer.run())
    assert all(trainer.net.modes)


@pytest.mark.parametrize("clip", [None, 1e-2, 1e3])
def test_clipping_scales_the_whole_gradient(clip):
    free, cut = (
        Trainer(Counting(), FlowMatching(), DATA, replace(SMALL, steps=1, clip=c))
        for c in (None, clip)
    )
    records = [next(t.run()) for t in (free, cut)]
    grads = [torch.cat([p.grad.flatten() for p in t.net.parameters()]) for t in (free, cut)]
    assert records[0].grad_norm == records[1].grad_norm > 0.1  # what is logged is before the cut
    scale = min(1.0, (clip or float("inf")) / records[0].grad_norm)
    torch.testing.assert_close(grads[1], scale * grads[0], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.0, 0.5), (0.5, 0.999)])
def test_the_optimizer_is_adam_with_these_betas(betas):
    """Two steps, against the recursion of Kingma and Ba 2015 written here."""
    trainer = Trainer(Counting(), FlowMatching(), DATA, replace(SMALL, betas=betas))
    expected, m, s = weights(trainer.net), torch.zeros(()), torch.zeros(())
    for n, record in enumerate(trainer.run(until=3), 1):
        g = torch.cat([p.grad.flatten() for p in trainer.net.parameters()])
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g**2
        step = m / (1 - betas[0] ** n) / ((s / (1 - betas[1] ** n)).sqrt() + 1e-8)
        expected = expected - record.lr * step
        torch.testing.assert_close(weights(trainer.net), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lr_scale", [1.0, 0.1])
def test_the_second_player_has_its_own_learning_rate(lr_scale):
    """Adam's first step is the learning rate in size, whatever the gradient."""
    objective = AdversarialDistillation(MLPDiscriminator(2, 8, 3), lr_scale=lr_scale)
    trainer = Trainer(Counting(), objective, DATA, replace(SMALL, warmup=4), Counting(1).eval())
    before = weights(objective), weights(trainer.net)
    record = next(trainer.run())
    assert record.lr == SMALL.lr / 4
    largest = [
        (weights(m) - b).abs().max() for m, b in zip((objective, trainer.net), before, strict=True)
    ]
    torch.testing.assert_close(largest[0], torch.tensor(record.lr * lr_scale), rtol=1e-3, atol=0)
    torch.testing.assert_close(largest[1], torch.tensor(record.lr), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_refused(dtype):
    with pytest.raises(ValueError, match=r"bf16=True"):
        Trainer(Counting().to(dtype), FlowMatching(), DATA, SMALL)


def test_a_whole_batch_counts_as_a_mean():
    """The step follows the mean of the losses over rows, not their sum."""

    @dataclass(frozen=True)
    class Tenfold(FlowMatching):
        def __call__(self, u, draw, ctx):
            loss = FlowMatching.__call__(self, u, draw, ctx)
            return Loss(10 * loss.per_sample, loss.watch)

    grads = []
    for objective in (FlowMatching(), Tenfold()):
        net = Counting()
        trainer = Trainer(net, objective, DATA, replace(SMALL, accumulate=2))
        start = copy.deepcopy(net)
        draws = [trainer._draw(k) for k in (0, 1)]
        losses = [objective(start, d, trainer._context(0, 0, None)).per_sample for d in draws]
        next(trainer.run())
        wanted = torch.autograd.grad(torch.cat(losses).mean(), list(start.parameters()))
        for p, g in zip(net.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-7)
        grads.append(torch.cat([g.flatten() for g in wanted]))
    torch.testing.assert_close(grads[1], 10 * grads[0], rtol=1e-4, atol=1e-6)
