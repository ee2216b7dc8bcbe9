"""``meanflow-lite cost``: parameters, arithmetic, memory and hours of a preset, by formula."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import tyro

from meanflow_lite.cli.settings import PRESETS, Settings
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS

#: Dense bfloat16 peaks by their vendors' data sheets, in FLOPs a second (float16 for V100 and T4).
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}
IMAGENET = 1_281_167

#: Passes with tangents, in forward passes of the same rows: a matrix product once more for each.
TANGENT = 1.0


def tokens(config: DiTConfig) -> int:
    """Number of patches of an image."""
    return (config.image_size // config.patch_size) ** 2


def forward_macs(config: DiTConfig) -> int:
    r"""Multiply-adds of one evaluation of one image (papers print them as "FLOPs").

    A block has :math:`12 N d^2 + 2 N^2 d` on N tokens of width d, and :math:`6 d^2` for its
    modulation; the rest is embedding, time features and the final layer.
    """
    n, d = tokens(config), config.width
    patch = config.patch_size**2 * config.channels
    block = 12 * n * d * d + 2 * n * n * d + 6 * d * d
    times = len(config.times) * (256 * d + d * d)
    return config.depth * block + 2 * n * d * patch + times + 2 * d * d


def parameters(config: DiTConfig) -> int:
    """Number of trained numbers."""
    d, patch = config.width, config.patch_size**2 * config.channels
    block = 12 * d * d + 9 * d + 6 * d * d + 6 * d
    embedders = len(config.times) * (257 * d + d * d + d)
    labels = 0 if config.num_classes is None else (config.num_classes + 1) * d
    ends = patch * d + d + d * patch + patch + 2 * d * d + 2 * d
    return config.depth * block + embedders + labels + ends


@dataclass(frozen=True)
class Passes:
    """One training step in units of a forward pass of the whole batch."""

    plain: float
    step: float
    textbook: float


def passes(settings: Settings) -> Passes:
    """Flow matching, our step, and a derivative and guidance on all rows.

    Forward 1, backward 2. Ours: a tangent on the rows with r < t; guidance evaluates the null
    label on all rows, and the own label only on the rows with r < t. The textbook step does all
    of it on all rows, with a separate forward pass for the derivative.
    """
    jump = 1 - settings.p_equal
    guided = settings.omega != 1 or settings.kappa != 0
    own = settings.kappa != 0
    ours = 3 + jump * TANGENT + guided * (1 + own * jump)
    return Passes(3.0, ours, 3 + 1 + TANGENT + guided * (1 + own))


def state_bytes(config: DiTConfig, averages: int) -> int:
    """Weights, gradients and Adam's two averages in float32, and the moving averages."""
    return parameters(config) * 4 * (4 + averages)


def activation_bytes(config: DiTConfig, rows: int, width: int, checkpoint: bool) -> int:
    """What the backward pass keeps of ``rows`` images at ``width`` bytes a number.

    A block keeps about 18 tokens' widths: three of normalized inputs, three of queries, keys and
    values, one of attention, eight of the MLP and three of sums; with checkpointing one a block.
    """
    kept = 1 if checkpoint else 18
    inside = 18 if checkpoint else 0
    return rows * tokens(config) * config.width * width * (config.depth * kept + inside)


def peak_flops(device: torch.device, count: int) -> float | None:
    """Peak of ``count`` GPUs of this kind, if the table knows it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peak for key, peak in PEAKS.items() if key in name]
    return known[0] * count if known else None


@dataclass(frozen=True)
class Cost:
    """Estimate what a training run takes, before paying for it.

    Attributes:
        preset: the settings to start from; all others below have its values as defaults.
        gpu: type of GPU.
        gpus: number of GPUs, over all nodes.
        images: images in the data set.
        mfu: share of the peak that is reached; 0.35 is ordinary for bfloat16 and compilation.
        settings: what the run learns.
    """

    preset: Literal["digits", "b4", "b2", "m2", "l2", "xl2", "xl2-plus"] = "digits"
    gpu: str = "H100"
    gpus: int = 8
    images: int = IMAGENET
    mfu: float = 0.35
    settings: Annotated[Settings, tyro.conf.arg(prefix_name=False)] = field(
        default_factory=lambda: PRESETS["digits"]
    )

    def run(self) -> None:
        """Print the estimate and what it assumes."""
        if self.gpu not in PEAKS:
            raise ValueError(f"unknown --gpu {self.gpu!r}: choose from {', '.join(PEAKS)}")
        settings, config = self.settings, NETWORKS[self.settings.network]
        steps = settings.count_steps(self.images)
        work, macs = passes(settings), forward_macs(config)
        rate = PEAKS[self.gpu] * self.gpus * self.mfu

        def hours(count: float) -> float:
            return steps * settings.batch * 2 * macs * count / rate / 3600

        rows = settings.batch // (self.gpus * settings.accumulate)
        kept = activation_bytes(config, rows, 2 if settings.bf16 else 4, settings.checkpoint)
        state = state_bytes(config, len(settings.ema))
        guess = f"{self.mfu:.0%} of {PEAKS[self.gpu] / 1e12:.0f} TFLOPs a second"
        lines = {
            "network": f"{settings.network}, {parameters(config) / 1e6:.2f} M parameters, "
            f"{tokens(config)} tokens",
            "evaluation": f"{macs / 1e9:.2f} G multiply-adds an image",
            "run": f"{steps:,} steps of {settings.batch} of {self.images:,} images",
            "step": f"{work.step:.2f} forward passes (flow matching {work.plain:.2f}, "
            f"derivative on all rows {work.textbook:.2f})",
            "hours": f"{hours(work.step):.1f} on {self.gpus} x {self.gpu} (flow matching "
            f"{hours(work.plain):.1f}, derivative on all rows {hours(work.textbook):.1f})",
            "images a second": f"{rate / (2 * macs * work.step):,.0f}",
            "memory a GPU": f"{state / 2**30:.1f} GiB state + {kept / 2**30:.1f} GiB activations "
            f"of {rows} images",
            "assumes": f"{guess} (dense bfloat16 by the data sheet) for all passes alike; a "
            f"backward pass is two forward passes, a tangent {TANGENT:g};",
            "": "the reader keeps up and communication is hidden. Arithmetic is counted, the share",
            " ": "of the peak is a guess until the log of a run shows its mfu.",
        }
        for name, text in lines.items():
            print(f"{name:<16} {text}")
