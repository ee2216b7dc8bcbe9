"""The training loop: one for toys on a laptop and for latents on many GPUs.

It knows an objective, a network and batches, and no method by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from meanflow_lite.data.batches import Ahead, Batches, FromLoader
from meanflow_lite.fields import Field, as_field
from meanflow_lite.identity import derivatives_in_float32
from meanflow_lite.objectives.base import Context, Draw, Loss, Objective, trained
from meanflow_lite.objectives.settings import check_fit
from meanflow_lite.randomness import Random
from meanflow_lite.training.ema import Ema


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run.

    ``batch`` is the whole batch of one optimizer step, over all processes and ``accumulate``
    micro-batches. ``warmup`` counts steps; ``cooldown`` is the share of the run over which the
    learning rate falls linearly to zero at the end (0: constant, as published). ``ema`` holds
    the rates of the sampling averages; the first is the one that is sampled from. So many steps
    in a row as ``skip_nonfinite`` says may have a loss or gradient that is not finite; they change
    nothing. ``bf16`` runs the network in bfloat16 by autocast, over float32 weights; with
    ``derivative_fp32`` all but the rows that need a derivative.
    """

    steps: int = 3000
    batch: int = 512
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 0
    cooldown: float = 0.0
    clip: float | None = None
    ema: tuple[float, ...] = (0.999,)
    accumulate: int = 1
    bf16: bool = False
    derivative_fp32: bool = False
    compile: bool = False
    seed: int = 0
    skip_nonfinite: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "accumulate": 1, "warmup": 0, "seed": 0}
        for name, limit in {**least, "skip_nonfinite": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < limit:
                raise ValueError(f"{name} must be a whole number of at least {limit}: got {value}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive: got {self.lr}")
        if not all(0 <= rate < 1 for rate in self.betas):
            raise ValueError(f"betas are two rates in [0, 1): got {self.betas}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clipping: got {self.clip}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown is a share of the run in [0, 1]: got {self.cooldown}")
        if not self.ema:
            raise ValueError("ema needs at least one rate; 0.0 keeps the last weights")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        up = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        tail = self.cooldown * self.steps
        down = min(1.0, (self.steps - step) / tail) if tail else 1.0
        return self.lr * up * down


@dataclass(frozen=True)
class Record:
    """What happened in one step; ``watch`` holds means over the batch."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    watch: dict[str, float]


#: ``optimizer(groups)`` from parameter groups, each with ``params`` and ``scale``, a factor of
#: the learning rate, which the trainer sets by ``TrainConfig.lr_at`` before each step.
MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Diverged(FloatingPointError):
    """The loss or its gradient is not finite; the weights are those of the step before."""


class LossModule(nn.Module):
    """Network and objective as one module: what DDP wraps, always whole.

    Calling the objective on the network *inside* a DDP wrapper skips the gradient
    synchronization without an error.
    """

    def __init__(self, net: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.net = net
        self.objective = objective
        self.field = as_field(net)  # the same, or what calls it without labels

    def forward(self, draw: Draw, ctx: Context) -> Loss:
        """The loss of one part of a batch."""
        return self.objective(self.field, draw, ctx)


class Trainer:
    """Network, optimizer and averages of one run, advanced step by step.

    Under ``torchrun`` it wraps the loss in DDP; the result is that of one process at the same
    whole batch. ``teacher`` is a field for objectives that need one. ``field`` is the network
    to sample from: the first moving average, with the objective's domain attached. With ``ahead``
    (default: for a GPU) a thread reads and draws the next step on the CPU during this one.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        batches: Batches | DataLoader,
        config: TrainConfig,
        teacher: nn.Module | Field | None = None,
        ahead: bool | None = None,
        optimizer: MakeOptimizer | None = None,
        schedule: Callable[[float], float] | None = None,
    ) -> None:
        if half := {p.dtype for p in net.parameters()} & {torch.float16, torch.bfloat16}:
            raise ValueError(
                f"the weights are {half.pop()}: small updates would be rounded away. Keep them in "
                "float32, net.float(), and set bf16=True, which computes in bfloat16"
            )
        check_fit(objective, net)
        self.net, self.objective, self.config = trained(net, objective.domain), objective, config
        self.batches = FromLoader(batches) if isinstance(batches, DataLoader) else batches
        self.teacher, self.make_optimizer, self.schedule = teacher, optimizer, schedule
        self.step, self.stage, self.skipped = 0, objective.stage(0.0), 0
        self.rank, self.world = 0, 1
        if dist.is_initialized():
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.parts = self.world * config.accumulate
        if config.batch % self.parts:
            raise ValueError(
                f"the batch ({config.batch}) must divide into {self.world} processes times "
                f"{config.accumulate} micro-batches"
            )
        self.device = next(net.parameters()).device
        self.module = LossModule(net, objective)
        self.call: nn.Module = self.module
        self.wrapper: DistributedDataParallel | None = None
        on_gpu = self.device.type == "cuda"
        if self.world > 1:
            ids = [self.device.index] if on_gpu else None
            # buffers are constants here; the other switch saves a copy of the gradients
            self.call = self.wrapper = DistributedDataParallel(
                self.module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.ahead = on_gpu if ahead is None else ahead
        self._draws = Ahead(self._draw) if self.ahead else self._draw
        if config.compile:
            # a guided step uses each weight several times, and DDP's own splitting counts each
            # use: it would cut the graph into a hundred pieces
            torch._dynamo.config.optimize_ddp = False
            self.call = torch.compile(self.call)  # pyright: ignore[reportAttributeAccessIssue]
        self.start_stage()

    def start_stage(self) -> None:
        """A fresh optimizer and fresh averages for the network as it is."""
        groups: list[dict] = [{"params": list(self.net.parameters()), "scale": 1.0}]
        if isinstance(self.objective, nn.Module) and list(self.objective.parameters()):
            scale = getattr(self.objective, "lr_scale", 1.0)
            groups.append({"params": list(self.objective.parameters()), "scale": scale})
        fused = True if self.device.type == "cuda" else None
        if self.make_optimizer is None:
            self.optimizer = torch.optim.Adam(
                groups, lr=self.config.lr, betas=self.config.betas, fused=fused
            )
        else:
            self.optimizer = self.make_optimizer(groups)
        for group in self.optimizer.param_groups:
            group.setdefault("scale", 1.0)
        self.averages = [Ema(self.net, rate) for rate in self.config.ema]
        rate = self.objective.target_ema
        self.target = None if rate is None else Ema(self.net, rate)

    @property
    def field(self) -> nn.Module:
        """The first moving average, with the domain that the objective trains."""
        return trained(self.averages[0].net, self.objective.domain)

    def run(self, until: int | None = None) -> Iterator[Record]:
        """Advance to step ``until`` (default: the end), yielding after each step and its EMA.

        Raises:
            Diverged: if the loss or its gradient is not finite.
        """
        until = self.config.steps if until is None else until
        self.net.train()
        while self.step < until:
            yield self._advance()

    def _context(self, step: int, part: int, random: Random | None) -> Context:
        progress = torch.tensor(step / self.config.steps)
        u_ema = as_field(self.target.net if self.target else self.averages[0].net)
        teacher = None if self.teacher is None else as_field(self.teacher)
        return Context(u_ema, teacher, progress, random, part, self.parts)

    def _advance(self) -> Record:
        config = self.config
        stage = self.objective.stage(self.step / config.steps)
        if stage > self.stage:
            self.stage = stage
            self.teacher = copy.deepcopy(self.net).requires_grad_(False).eval()
            self.start_stage()
        lr = config.lr_at(self.step)
        if self.schedule is not None:
            lr *= self.schedule(self.step / config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            loss = self._backward(micro)
            for name, values in {"loss": loss.per_sample, **loss.watch}.items():
                values = values.detach().float()
                pair = torch.stack([values.sum(), values.new_full((), values.numel())])
                sums[name] = sums[name] + pair if name in sums else pair
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        limit = float("inf") if config.clip is None else config.clip
        size = nn.utils.clip_grad_norm_(parameters, limit)
        means = self._means(sums)  # waits for a GPU; after it the norm is there too
        total, norm = means.pop("loss"), float(size)
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step()
            for average in (*self.averages, *([self.target] if self.target else [])):
                average.update(self.net)
            self.skipped = 0
        else:
            self._leave_out(total, norm)
        self.step += 1
        return Record(self.step, total, norm, lr, means)

    def _leave_out(self, total: float, norm: float) -> None:
        """A step that is not finite changes nothing; too many of them in a row end the run."""
        self.skipped += 1
        if self.skipped <= self.config.skip_nonfinite:
            return
        sound = all(bool(torch.isfinite(p).all()) for p in self.net.parameters())
        weights = "those before it" if sound else "not finite either: an update overflowed"
        raise Diverged(
            f"the loss is {total} and its gradient's norm {norm} at step {self.step}; the weights "
            f"are {weights}. Try a lower learning rate, clip, or no bf16"
        )

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Means over the whole batch, the same on all processes, so that all see a divergence."""
        pairs = torch.stack(list(sums.values()))
        if self.world > 1:
            dist.all_reduce(pairs)
        return {k: s / n for k, (s, n) in zip(sums, pairs.tolist(), strict=True) if n}

    def _draw(self, n: int) -> Draw:
        """Batch and random draws of this process's ``n``-th micro-batch, on the CPU."""
        config = self.config
        step, micro = divmod(n, config.accumulate)
        part = self.rank * config.accumulate + micro
        x, y = self.batches(step, config.batch, config.seed, part, self.parts)
        draw = self.objective.draw(x, y, self._context(step, part, Random(config.seed, step)))
        return draw.map(Tensor.pin_memory) if self.device.type == "cuda" else draw

    def _backward(self, micro: int) -> Loss:
        config = self.config
        draw = self._draws(self.step * config.accumulate + micro)
        draw = draw.map(lambda value: value.to(self.device, non_blocking=True))
        ctx = self._context(self.step, self.rank * config.accumulate + micro, None)
        last = micro == config.accumulate - 1
        with ExitStack() as stack:
            if self.wrapper is not None and not last:
                stack.enter_context(self.wrapper.no_sync())
            stack.enter_context(
                torch.autocast(self.device.type, torch.bfloat16) if config.bf16 else nullcontext()
            )
            stack.enter_context(derivatives_in_float32(config.derivative_fp32))
            loss = self.call(draw, ctx)
        (loss.per_sample.mean() / config.accumulate).backward()
        return loss


def train(
    net: nn.Module,
    objective: Objective,
    batches: Batches | DataLoader,
    config: TrainConfig,
    teacher: nn.Module | Field | None = None,
    optimizer: MakeOptimizer | None = None,
    schedule: Callable[[float], float] | None = None,
) -> tuple[nn.Module, list[Record]]:
    """Run to the end; return the field to sample from and the records of all steps.

    ``batches`` may be a ``DataLoader`` of ``x`` or ``(x, y)``. ``optimizer`` makes one from groups
    of parameters, such as ``partial(torch.optim.AdamW, weight_decay=0.1)`` (default: Adam).
    ``schedule`` is a factor of the learning rate, as a function of the share of training done.
    """
    trainer = Trainer(net, objective, batches, config, teacher, None, optimizer, schedule)
    history: list[Record] = [*trainer.run()]
    return trainer.field, history


def curve(history: list[Record], name: str) -> Tensor:
    """One watched value (or ``loss``, ``grad_norm``) over the steps, ``[steps]``."""
    values = [getattr(h, name) if hasattr(h, name) else h.watch[name] for h in history]
    return torch.tensor(values)
