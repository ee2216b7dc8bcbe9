"""Run cards and the plans on paper: every number from the formulas of `meanflow-lite cost`."""

from __future__ import annotations

import math
from dataclasses import replace

from meanflow_book.chapters import in_cell, table
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.notebook.claims import all_published, published
from meanflow_lite.runs import PRESETS
from meanflow_lite.runs.cost import (
    IMAGENET,
    LAUNCH_BOUND,
    PEAKS,
    PEAKS_FLOAT32,
    duration,
    estimate,
    parameters,
)
from meanflow_lite.runs.settings import Settings

CARDS = {
    "b4": ("jax-b4-80-plain",),
    "b2": ("meanflow-b2-1nfe",),
    "m2": ("meanflow-m2-1nfe",),
    "l2": ("meanflow-l2-1nfe",),
    "xl2": ("meanflow-xl2-1nfe", "meanflow-xl2-2nfe"),
    "xl2-plus": ("meanflow-xl2plus-2nfe",),
}
GPUS = 8
#: Bytes a second that one GPU sends, by data sheets: NVLink of an H100 within a node, one port of
#: InfiniBand NDR a GPU, and one port of 100 gigabit Ethernet for the eight GPUs of a node.
LINKS = {"NVLink": 450e9, "400 Gb/s a GPU": 50e9, "100 Gb/s a node": 12.5e9 / 8}
#: Float32 numbers of one cached image: mean and deviation, four channels, 32 x 32.
LATENT_BYTES = 2 * 4 * 32 * 32 * 4
#: The networks start as u = 0: the first error is that of predicting nothing.
LATENT_NUMBERS = 4 * 32 * 32
#: Multiply-adds of encoding one image of 256 pixels; chapter 12 counts those of decoding.
ENCODER_MACS = 136.4e9


def train_command(preset: str) -> str:
    """How to train a preset on one node."""
    return (
        f"torchrun --nproc-per-node {GPUS} -m meanflow_lite train --preset {preset} "
        "\\\n    --data latents --bf16 True --compile True"
    )


def gib(count: float) -> str:
    """Bytes in GiB."""
    return f"{count / 2**30:.1f} GiB"


def checkpoint_bytes(settings: Settings) -> int:
    """Weights, averages of weights and Adam's two averages, in float32."""
    return parameters(NETWORKS[settings.network]) * 4 * (3 + len(settings.ema))


def card(preset: str) -> str:
    """One preset: what to type, what it takes by the formula, what the log says first."""
    settings = replace(PRESETS[preset], bf16=True)
    found, slow = estimate(settings, gpus=GPUS), estimate(replace(settings, bf16=False), gpus=GPUS)
    older = estimate(settings, "A100", GPUS)
    count = parameters(NETWORKS[settings.network])
    goals = "; ".join(
        f"FID {n:.2f} with {n.nfe} evaluation{'s' * (n.nfe != '1')}, labels {n.labels} ({n.source})"
        for n in map(published, CARDS[preset])
    )
    low, high = settings.t_guided
    guided = settings.omega != 1 or settings.kappa != 0
    scale = settings.guidance(1000).effective_scale
    guidance = (
        f"omega {settings.omega:g}, kappa {settings.kappa:g}: scale {scale:.2g} for t in "
        f"[{low:g}, {high:g}]"
        if guided
        else "none"
    )
    first = settings.omega**2 * 2 * LATENT_NUMBERS
    small = "" if settings.omega == 1 else f"; {first:,.0f} on guided rows, whose target has omega"
    rows = [
        ["network", f"{settings.network}, {count / 1e6:.2f} M parameters"],
        ["guidance", guidance],
        ["published", in_cell(goals)],
        ["GPUs", f"{GPUS} x H100 (80 GB)"],
        [
            "effective batch",
            f"{settings.batch} = {GPUS} GPUs x {found.rows} images x {settings.accumulate} "
            "micro-batch",
        ],
        ["steps", f"{found.steps:,} ({settings.epochs:g} epochs of {IMAGENET:,} images)"],
        [
            "time",
            f"**{duration(found.hours)}** in bfloat16; {duration(older.hours)} on {GPUS} x A100; "
            f"{duration(slow.hours)} in float32, as the preset has it",
        ],
        [
            "of which",
            f"{duration(found.hours_plain)} flow matching alone; with a derivative on all rows it "
            f"would be {duration(found.hours_textbook)}",
        ],
        [
            "memory a GPU",
            f"{gib(found.state_bytes)} state + {gib(found.activation_bytes)} activations",
        ],
        ["a checkpoint", f"{gib(checkpoint_bytes(settings))}; three are kept"],
        [
            "log: speed",
            f"`images_per_second` {found.images_per_second:,.0f}, a step every "
            f"{1000 * found.seconds_per_step:.0f} ms, at `mfu` 0.35",
        ],
        [
            "log: first line",
            f"`loss` between 0.99 and 1; `velocity_error` below {2 * LATENT_NUMBERS:,}, the error "
            f"of predicting nothing for a latent of {LATENT_NUMBERS:,} numbers with unit variance"
            + small,
        ],
    ]
    if found.seconds_per_step < LAUNCH_BOUND:
        short = "a step this short is bound by the launch of kernels: expect several times as long"
        rows.insert(7, ["beware", short])
    start = (
        f"starting: {settings.objective}, {settings.network} ({count / 1e6:.2f} M parameters), "
        f"{found.steps} steps of {settings.batch} of {IMAGENET} images, {GPUS} x cuda:0, "
        f"run folder runs/{preset}"
    )
    commands = f"```text\n{train_command(preset)}\n```"
    said = f"It begins with\n\n```text\n{start}\n```"
    return "\n\n".join([f"## {preset}", commands, table(["", ""], rows), said])


def cards_page() -> str:
    """What the estimates assume, and the cards of all ImageNet presets."""
    peaks = ", ".join(
        f"{gpu} {PEAKS[gpu] / 1e12:g} in bfloat16 and {PEAKS_FLOAT32[gpu] / 1e12:g} in float32"
        for gpu in ("H100", "A100")
    )
    said = (
        "What the estimate assumes: a backward pass costs two forward passes and a tangent one; a "
        f"share of 0.35 of the peak by the data sheet (TFLOPs a second: {peaks}); communication, "
        "the launch of kernels and the reader are hidden. It leaves out checkpoints, grids of "
        "samples and the FID on the way."
    )
    return "\n\n".join([said, *(card(preset) for preset in CARDS)])


def fid_page() -> str:
    """Every published FID on ImageNet 256 with its conditions, few evaluations first."""
    chosen = [
        n
        for n in all_published().values()
        if "ImageNet 256, class-conditional" in n.what and not n.key.startswith("article")
    ]

    def evaluations(n) -> float:
        return math.prod(float(part) for part in n.nfe.split("x"))

    rows = [
        [
            in_cell(n.what.split("class-conditional, ")[1]),
            f"{n:.2f}",
            n.nfe,
            in_cell(n.guidance) or "not read",
            n.epochs or "not read",
            n.labels or "not read",
            n.trust,
        ]
        for n in sorted(chosen, key=lambda n: (evaluations(n), n.value))
    ]
    return table(["model", "FID", "NFE", "guidance", "epochs", "labels", "read"], rows)


def traffic(preset: str, gpus: int) -> float:
    """Bytes that a GPU sends in a ring all-reduce of the float32 gradients."""
    return 2 * (gpus - 1) / gpus * 4 * parameters(NETWORKS[PRESETS[preset].network])


def nodes_page() -> str:
    """XL/2 over more nodes: at the published batch, and at 32 images a GPU."""
    settings, rows = replace(PRESETS["xl2"], bf16=True), []
    for nodes in (1, 2, 4, 8):
        gpus = GPUS * nodes
        for batch in dict.fromkeys((settings.batch, 32 * gpus)):
            found = estimate(replace(settings, batch=batch), gpus=gpus)
            sent = traffic("xl2", gpus)
            waits = [f"{1000 * sent / rate:,.0f} ms" for rate in LINKS.values()]
            waits = [waits[0], "-", "-"] if nodes == 1 else ["-", *waits[1:]]
            rows.append(
                [
                    f"{nodes}",
                    f"{batch}",
                    f"{found.rows}",
                    f"{1000 * found.seconds_per_step:.0f} ms",
                    *waits,
                    f"{found.steps:,}",
                    duration(found.hours),
                ]
            )
    head = ["nodes", "batch", "images a GPU", "arithmetic of a step"]
    head += [f"gradients by {name}" for name in LINKS] + ["steps", "time by arithmetic"]
    return table(head, rows)


def data_page() -> str:
    """ImageNet and ten times as much: what grows."""
    settings, b2 = replace(PRESETS["xl2"], bf16=True), replace(PRESETS["b2"], bf16=True)
    rows = []
    for images in (IMAGENET, 10 * IMAGENET):
        same = estimate(replace(settings, steps=PRESETS["xl2"].count_steps(IMAGENET)), gpus=GPUS)
        epochs = estimate(settings, gpus=GPUS, images=images)
        encode = images * 2 * ENCODER_MACS / (GPUS * 67e12 * 0.35) / 3600
        rows.append(
            [
                f"{images:,}",
                f"{images * LATENT_BYTES / 1e9:,.0f} GB",
                f"{math.ceil(images / 1024):,}",
                duration(encode),
                f"{same.steps * settings.batch / images:.0f}",
                duration(same.hours),
                duration(epochs.hours),
            ]
        )
    head = ["images", "latent cache", "shards", "encode, arithmetic", "epochs in the same steps"]
    head += ["time, same steps", f"time, {settings.epochs:g} epochs"]
    rate = estimate(b2, gpus=GPUS).images_per_second
    need = f"{rate * LATENT_BYTES / 1e6:,.0f} MB a second"
    return table(head, rows) + (
        f"\n\nOf XL/2 on {GPUS} H100s in bfloat16; the encoder runs in float32. The fastest "
        f"consumer, B/2, reads {rate:,.0f} latents a second, {need} in pieces of "
        f"{LATENT_BYTES // 1024} KiB at random places."
    )
