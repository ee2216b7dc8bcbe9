"""``meanflow-lite cost``: what a training run takes, before paying for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.runs.cost import (
    COPY,
    DIGITS,
    IMAGENET,
    LAUNCH_BOUND,
    TANGENT,
    checkpoint_bytes,
    duration,
    estimate,
    forward_macs,
    parameters,
    peaks,
    stalled,
    tokens,
)
from meanflow_lite.runs.settings import PRESETS, Settings


@dataclass(frozen=True)
class Cost:
    """Estimate what a training run takes, before paying for it.

    Attributes:
        preset: the settings to start from; all others below have its values as defaults.
        gpu: type of GPU.
        gpus: number of GPUs, over all nodes.
        images: images in the data set; None: those of ImageNet, or of the digits.
        mfu: share of the peak that is reached, a guess until the log of a run shows it.
        settings: what the run learns.
    """

    preset: Literal["digits", "b4", "b2", "m2", "l2", "xl2", "xl2-plus"] = "digits"
    gpu: str = "H100"
    gpus: int = 8
    images: int | None = None
    mfu: float = 0.35
    settings: Annotated[Settings, tyro.conf.arg(prefix_name=False)] = field(
        default_factory=lambda: PRESETS["digits"]
    )

    def run(self) -> None:
        """Print the estimate and what it assumes."""
        settings, config = self.settings, NETWORKS[self.settings.network]
        usual = DIGITS if self.preset == "digits" else IMAGENET
        images = usual if self.images is None else self.images
        found = estimate(settings, self.gpu, self.gpus, images, self.mfu)
        work, (precision, known) = found.passes, peaks(settings)
        peak, averages = known[self.gpu] / 1e12, len(settings.ema)
        one = checkpoint_bytes(config, averages) / COPY
        lines = {
            "network": f"{settings.network}, {parameters(config) / 1e6:.2f} M parameters, "
            f"{tokens(config)} tokens",
            "evaluation": f"{forward_macs(config) / 1e9:.3g} G multiply-adds an image",
            "run": f"{found.steps:,} steps of {settings.batch} of {images:,} images",
            "step": f"{work.step:.2f} forward passes (flow matching {work.plain:.2f}, "
            f"derivative on all rows {work.textbook:.2f})",
            "time": f"{duration(found.hours)} on {self.gpus} x {self.gpu} in {precision} (flow "
            f"matching {duration(found.hours_plain)}, derivative on all rows "
            f"{duration(found.hours_textbook)})",
            "images a second": f"{found.images_per_second:,.0f}, a step every "
            f"{1000 * found.seconds_per_step:.3g} ms",
            "memory a GPU": f"{found.state_bytes / 2**30:.1f} GiB state + "
            f"{found.activation_bytes / 2**30:.1f} GiB activations of {found.rows} images",
            "checkpoints": f"{checkpoint_bytes(config, averages) / 2**30:.1f} GiB each; training "
            f"waits {1000 * one:.0f} ms for the copy of one, "
            f"{duration(stalled(config, averages, found.hours))} in all at one in 15 minutes (a "
            f"copy at {COPY / 1e9:g} GB/s is a guess; the file is written beside training)",
            "assumes": f"{self.mfu:.0%} of {peak:g} TFLOPs a second (dense {precision} by the data "
            "sheet) for all passes alike;",
            "": f"a backward pass is two forward passes, a tangent {TANGENT:g}; the reader keeps",
            " ": "up; communication and kernel launches are hidden. The arithmetic is counted, the",
            "  ": "share of the peak is a guess until the log of a run shows its mfu.",
        }
        for name, text in lines.items():
            print(f"{name:<16} {text}")
        if found.seconds_per_step < LAUNCH_BOUND:
            print(f"{'beware':<16} a step this short is bound by the launch of kernels instead")
        for option in ("bf16", "tf32") if precision == "float32" else ():
            other = replace(settings, **{option: True})
            faster = estimate(other, self.gpu, self.gpus, images, self.mfu)
            print(f"with --{option} True {duration(faster.hours)}")
