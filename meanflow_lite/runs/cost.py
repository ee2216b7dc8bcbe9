"""What a run costs: parameters, arithmetic, memory and hours, by formula."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.runs.settings import Settings

#: Dense bfloat16 peaks by their vendors' data sheets, in FLOPs a second (float16 for V100 and T4).
#: They are reached with ``--bf16 True`` only.
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
#: Dense peaks in TF32, by ``--tf32 True``; V100 and T4 do not have it.
PEAKS_TF32 = {
    "H200": 494.5e12,
    "H100": 494.5e12,
    "A100": 156e12,
    "L40S": 183e12,
    "L4": 60e12,
    "RTX 4090": 82.6e12,
    "V100": 15.7e12,
    "T4": 8.1e12,
}
#: Peaks in float32, which is what PyTorch computes in unless it is told otherwise.
PEAKS_FLOAT32 = {
    "H200": 67e12,
    "H100": 67e12,
    "A100": 19.5e12,
    "L40S": 91.6e12,
    "L4": 30.3e12,
    "RTX 4090": 82.6e12,
    "V100": 15.7e12,
    "T4": 8.1e12,
}
IMAGENET, DIGITS = 1_281_167, 1_297  # images of the training sets

#: Seconds of a step below which the launch of its thousands of kernels cannot be hidden.
LAUNCH_BOUND = 5e-3

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
    of it on all rows, with a separate forward pass for the derivative. Other objectives count as
    flow matching, the least that any of them takes.
    """
    own_kind = settings.objective == "meanflow"
    jump = own_kind * (1 - settings.p_equal)
    guided = own_kind and (settings.omega != 1 or settings.kappa != 0)
    own = settings.kappa != 0
    ours = 3 + jump * TANGENT + guided * (1 + own * jump)
    return Passes(3.0, ours, 3 + 1 + TANGENT + guided * (1 + own))


def state_bytes(config: DiTConfig, averages: int) -> int:
    """Weights, gradients and Adam's two averages in float32, and the moving averages."""
    return parameters(config) * 4 * (4 + averages)


#: Bytes a second at which a state is copied to the memory of the CPU: a guess for PCIe 4, pinned.
COPY = 20e9


def checkpoint_bytes(config: DiTConfig, averages: int) -> int:
    """Weights, Adam's two averages and the moving averages in float32: what is copied and kept."""
    return parameters(config) * 4 * (3 + averages)


def stalled(config: DiTConfig, averages: int, hours: float, minutes: float = 15.0) -> float:
    """Hours that training waits for copies of the state, one every ``minutes`` and at the end.

    Writing goes on beside training.
    """
    saves = 1 + int(hours * 60 / minutes)
    return saves * checkpoint_bytes(config, averages) / COPY / 3600


def activation_bytes(config: DiTConfig, rows: int, width: int, checkpoint: bool) -> int:
    """What the backward pass keeps of ``rows`` images at ``width`` bytes a number.

    A block keeps about 18 tokens' widths: three of normalized inputs, three of queries, keys and
    values, one of attention, eight of the MLP and three of sums; with checkpointing one a block.
    """
    kept = 1 if checkpoint else 18
    inside = 18 if checkpoint else 0
    return rows * tokens(config) * config.width * width * (config.depth * kept + inside)


def peak_flops(device: torch.device, count: int, settings: Settings) -> float | None:
    """Peak of ``count`` GPUs of this kind in this precision, if the table knows it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peak for key, peak in peaks(settings)[1].items() if key in name]
    return known[0] * count if known else None


def peaks(settings: Settings) -> tuple[str, dict[str, float]]:
    """The precision of matrix products, and the peaks in it."""
    if settings.bf16:
        return "bfloat16", PEAKS
    return ("TF32", PEAKS_TF32) if settings.tf32 else ("float32", PEAKS_FLOAT32)


@dataclass(frozen=True)
class Estimate:
    """What a run takes. Hours are of our step, of flow matching and of the textbook step."""

    steps: int
    passes: Passes
    hours: float
    hours_plain: float
    hours_textbook: float
    images_per_second: float
    rows: int
    state_bytes: int
    activation_bytes: int

    @property
    def seconds_per_step(self) -> float:
        """Time of one optimizer step."""
        return 3600 * self.hours / self.steps


def estimate(
    settings: Settings, gpu: str = "H100", gpus: int = 8, images: int = IMAGENET, mfu: float = 0.35
) -> Estimate:
    """The estimate that ``meanflow-lite cost`` prints, for ``gpus`` GPUs of one type.

    Raises:
        ValueError: for an unknown type, a batch that does not divide into the GPUs, no images, or
            a share outside (0, 1].
    """
    if gpu not in PEAKS:
        raise ValueError(f"unknown --gpu {gpu!r}: choose from {', '.join(PEAKS)}")
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu is a share of the peak in (0, 1]: got {mfu}")
    if images < 1:
        raise ValueError(f"--images must be at least 1: got {images}")
    if gpus < 1 or settings.batch % (gpus * settings.accumulate):
        raise ValueError(
            f"--batch {settings.batch} must divide into {gpus} GPUs times --accumulate "
            f"{settings.accumulate}"
        )
    config = NETWORKS[settings.network]
    steps, work = settings.count_steps(images), passes(settings)
    rate = peaks(settings)[1][gpu] * gpus * mfu / (2 * forward_macs(config))  # forward passes
    rows = settings.batch // (gpus * settings.accumulate)
    hours, plain, textbook = (
        steps * settings.batch * n / rate / 3600 for n in (work.step, work.plain, work.textbook)
    )
    kept = activation_bytes(config, rows, 2 if settings.bf16 else 4, settings.checkpoint)
    state = state_bytes(config, len(settings.ema))
    each = rate / work.step
    return Estimate(steps, work, hours, plain, textbook, each, rows, state, kept)


def duration(hours: float) -> str:
    """``94.4 h``, ``24 min`` or ``3 s``."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.2g} s"
