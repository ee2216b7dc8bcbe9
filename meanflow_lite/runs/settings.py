"""What a training run is: one frozen dataclass, and the presets with the published values."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace

from meanflow_lite.guidance import Guidance, LabelDropout
from meanflow_lite.networks.discriminator import Discriminator
from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.objectives import OBJECTIVES, Objective
from meanflow_lite.objectives.phases import Phases
from meanflow_lite.paths import LogitNormal, Ordered
from meanflow_lite.training import TrainConfig


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns. Any field can be changed on the command line.

    Attributes:
        network: size of the DiT. ImageNet latents: B/4, B/2, M/2, L/2, XL/2. Digits: digits-XS,
            digits-S, digits-M, digits-L. For tests and chapter 12: crops, tiny.
        objective: training method: flow_matching, meanflow, improved_meanflow, alphaflow,
            splitmeanflow, shortcut, consistency, terminal_velocity, lagrangian,
            drifting, progressive_distillation, adversarial_distillation.
        epochs: passes over the data.
        steps: optimizer steps; None: as many as `epochs` make.
        batch: images of one optimizer step, over all processes and micro-batches.
        accumulate: micro-batches a step, to fit a large batch into memory.
        lr: learning rate of Adam.
        betas: decay rates of Adam's two averages.
        warmup: steps over which the learning rate rises.
        cooldown: share of the run over which the learning rate falls to zero at the end.
        clip: largest norm of the gradient; None: not clipped, as published.
        ema: rates of the weight averages; the first is sampled from.
        p_equal: share of rows with r = t, which are plain flow matching.
        p: power of the adaptive weight; 0 is the squared error.
        c: constant of the adaptive weight.
        time_mean: mean of the logit-normal law of r and t.
        time_std: standard deviation of that law.
        omega: guidance weight of the data's velocity in training.
        kappa: weight of the network's own velocity; the scale is omega / (1 - kappa).
        t_guided: range of t in which guidance acts.
        label_dropout: share of rows that lose their label.
        plain_epochs: first epochs without guidance, for runs that start from a SiT checkpoint.
        latent_scale: factor on latents, from a cache only.
        bf16: run the network in bfloat16 (autocast).
        derivative_fp32: with `--bf16 True`, take derivatives in float32, in a pass of their own.
        tf32: multiply float32 matrices in TF32 on a GPU: several times as fast, ten bits of
            mantissa. Off, so that float32 means float32. Of no use with `--bf16 True`.
        compile: compile the step with `torch.compile`.
        checkpoint: store fewer activations, compute them twice.
        seed: of every draw; the same seed gives the same run.
        skip_nonfinite: steps in a row that may be left out because their loss or gradient is not
            finite; one more ends the run.
    """

    network: str = "digits-S"
    objective: str = "meanflow"
    epochs: float = 240.0
    steps: int | None = None
    batch: int = 256
    accumulate: int = 1
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 0
    cooldown: float = 0.0
    clip: float | None = None
    ema: tuple[float, ...] = (0.9999,)
    p_equal: float = 0.75
    p: float = 1.0
    c: float = 0.01
    time_mean: float = -0.4
    time_std: float = 1.0
    omega: float = 1.0
    kappa: float = 0.0
    t_guided: tuple[float, float] = (0.0, 1.0)
    label_dropout: float = 0.1
    plain_epochs: float = 0.0
    latent_scale: float = 0.18215
    bf16: bool = False
    derivative_fp32: bool = False
    tf32: bool = False
    compile: bool = False
    checkpoint: bool = False
    seed: int = 0
    skip_nonfinite: int = 0

    def __post_init__(self) -> None:
        for name, known in (("network", NETWORKS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}"
                )
        if not self.epochs > 0:
            raise ValueError(f"epochs must be positive: got {self.epochs}")
        for name in ("batch", "steps", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if not (self.c >= 0 and self.latent_scale > 0):
            raise ValueError(
                "c must not be negative and latent_scale must be positive: got "
                f"{self.c} and {self.latent_scale}"
            )
        if not 0 <= self.plain_epochs <= self.epochs:
            raise ValueError(
                f"plain_epochs is a part of the {self.epochs:g} epochs: got {self.plain_epochs}"
            )

    def count_steps(self, images: int) -> int:
        """Optimizer steps of the run on a data set of ``images``."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * images / self.batch))

    def train_config(self, images: int) -> TrainConfig:
        """The part that the trainer reads."""
        shared = {f.name for f in fields(TrainConfig)} & {f.name for f in fields(self)}
        values = {name: getattr(self, name) for name in shared}
        return TrainConfig(**{**values, "steps": self.count_steps(images)})

    def network_config(self, num_classes: int, shape: tuple[int, ...] | None = None) -> DiTConfig:
        """Sizes of the network for data with ``num_classes`` labels, of the preset or a shape."""
        config = NETWORKS[self.network]
        channels, side = (config.channels, config.image_size) if shape is None else shape[:2]
        return replace(
            config,
            channels=channels,
            image_size=side,
            num_classes=num_classes,
            checkpoint=self.checkpoint,
        )

    def make_network(self, num_classes: int) -> DiT:
        """A fresh network for data with ``num_classes`` labels."""
        return DiT(self.network_config(num_classes))

    def make_objective(self, num_classes: int) -> Objective:
        """The objective with those of these settings that it knows."""
        cls = OBJECTIVES[self.objective]
        config = NETWORKS[self.network]
        law = LogitNormal(self.time_mean, self.time_std)
        offered: dict[str, object] = {
            "p_equal": self.p_equal,
            "p": self.p,
            "c": self.c,
            "law": law,
            "pair": Ordered(law),
        }
        if self.label_dropout:
            offered["dropout"] = LabelDropout(num_classes, self.label_dropout)
        knows = inspect.signature(cls).parameters
        if "discriminator" in knows:
            offered["discriminator"] = Discriminator(config.channels, num_classes)
        plain = cls(**{name: value for name, value in offered.items() if name in knows})
        if self.omega == 1 and self.kappa == 0:
            return plain
        if "guidance" not in knows:
            raise ValueError(
                f"{self.objective} has no guidance in training: use --omega 1 --kappa 0 (and "
                "--omega with the sample command for flow_matching)"
            )
        guided = replace(plain, guidance=self.guidance(num_classes))
        share = self.plain_epochs / self.epochs
        return Phases(plain, guided, share) if share else guided

    def guidance(self, num_classes: int) -> Guidance:
        """Guidance in training, as these settings have it."""
        return Guidance(num_classes, self.omega, self.kappa, self.t_guided)


_IMAGENET = Settings(network="B/2", ema=(0.9999,))

#: The presets: 8x8 digits for a CPU, and the published ImageNet 256 settings (arXiv 2505.13447).
PRESETS: dict[str, Settings] = {
    "digits": Settings(
        network="digits-S",
        epochs=250.0,
        batch=128,
        lr=1e-3,
        cooldown=0.5,
        clip=1.0,
        ema=(0.999,),
        omega=1.0,
        kappa=0.5,
    ),
    "b4": replace(_IMAGENET, network="B/4", epochs=80.0),
    "b2": replace(_IMAGENET, omega=1.0, kappa=0.5),
    "m2": replace(_IMAGENET, network="M/2", omega=1.0, kappa=0.5),
    "l2": replace(_IMAGENET, network="L/2", omega=0.2, kappa=0.92, t_guided=(0.0, 0.8)),
    "xl2": replace(_IMAGENET, network="XL/2", omega=0.2, kappa=0.92, t_guided=(0.0, 0.75)),
    "xl2-plus": replace(
        _IMAGENET, network="XL/2", epochs=1000.0, omega=1.0, kappa=0.5, t_guided=(0.3, 0.8)
    ),
}
