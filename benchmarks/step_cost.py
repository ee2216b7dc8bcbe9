"""What a MeanFlow step costs, in flow-matching steps, for one DiT and one batch.

    python benchmarks/step_cost.py            # writes meanflow_lite/results/step_cost.json
    python benchmarks/step_cost.py --quick    # a small network, few repetitions, writes nothing

A step is forward and backward. Timings are interleaved in pairs: each measured step stands beside a
flow-matching step of the same network on the same batch, and the ratio is that of the pair; the
order within a pair alternates. Reported: median ratio with a 95% bootstrap interval by the clock on
the wall, the same by processor time (which other programs disturb less), and peak memory above the
weights. The last line of standard output is JSON; `ours` is the headline ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import RESULTS, environment, rounded, write
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from meanflow_lite.guidance import Guidance
from meanflow_lite.identity import finite_difference, total_derivative
from meanflow_lite.losses import adaptive_weight, squared_error
from meanflow_lite.networks import DiT, DiTConfig
from meanflow_lite.objectives import MeanFlow
from meanflow_lite.objectives.base import Context, Draw
from meanflow_lite.paths import bcast
from meanflow_lite.randomness import Random

CLASSES = 10
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Step = Callable[[], Tensor]  # a forward pass: the loss


@dataclass(frozen=True)
class Setting:
    """One network and one batch: `tokens` is a square of a power of two."""

    width: int = 256
    depth: int = 4
    tokens: int = 64
    batch: int = 32
    p_equal: float = 0.75
    guided: bool = False

    @property
    def config(self) -> DiTConfig:
        """Patches of 2 x 2 cells with 4 channels, as for latents of ImageNet."""
        side = 2 * round(self.tokens**0.5)
        heads = max(1, self.width // 64)
        return DiTConfig(side, 2, 4, self.width, self.depth, heads, num_classes=CLASSES)

    @property
    def guidance(self) -> Guidance | None:
        """Effective scale 2 with kappa = 0.5: both guidance terms are at work."""
        return Guidance.effective(2.0, null=CLASSES, kappa=0.5) if self.guided else None


# --- the steps -----------------------------------------------------------------------------------


def weighted(error: Tensor) -> Tensor:
    return (error * adaptive_weight(error, 1.0, 1e-3)).mean()


def flow_matching(u, draw: Draw, setting: Setting) -> Tensor:
    return weighted(squared_error(u(draw.z, draw.t, draw.t, draw.y), draw.v))


def _velocity(u, draw: Draw, setting: Setting) -> Tensor:
    guide = setting.guidance
    return draw.v if guide is None else guide(u, draw.z, draw.t, draw.v, draw.y)


def _jvp(u, draw: Draw, v: Tensor) -> tuple[Tensor, Tensor]:
    at = (draw.z, draw.r, draw.t)
    along = (v, torch.zeros_like(draw.r), torch.ones_like(draw.t))
    value, derivative = torch.func.jvp(partial(u, y=draw.y), at, along)[:2]
    return value, derivative


def _regress(u: Tensor, dudt: Tensor, v: Tensor, draw: Draw) -> Tensor:
    target = v - bcast(draw.t - draw.r, draw.z) * dudt
    return squared_error(u, target.detach())


def separate_forward(u, draw: Draw, setting: Setting) -> Tensor:
    """The derivative of every row without a graph, then an ordinary forward pass."""
    v = _velocity(u, draw, setting)
    with torch.no_grad():
        dudt = _jvp(u, draw, v)[1]
    return weighted(_regress(u(draw.z, draw.r, draw.t, draw.y), dudt, v, draw))


def one_pass(u, draw: Draw, setting: Setting) -> Tensor:
    """The derivative of every row in the pass that is differentiated, as most codes do."""
    v = _velocity(u, draw, setting)
    return weighted(_regress(*_jvp(u, draw, v), v, draw))


def rows_only(u, draw: Draw, setting: Setting) -> Tensor:
    """One pass by `torch.func.jvp`, for the rows with r < t alone."""
    plain, jump = draw.split()
    v = _velocity(u, jump, setting)
    errors = [_regress(*_jvp(u, jump, v), v, jump)]
    if len(plain.x):
        v = _velocity(u, plain, setting)
        errors.append(squared_error(u(plain.z, plain.t, plain.t, plain.y), v))
    return weighted(torch.cat(errors))


def library(u, draw: Draw, setting: Setting, derivative=total_derivative) -> Tensor:
    """The objective that this package trains with."""
    objective = MeanFlow(
        p_equal=setting.p_equal, p=1.0, guidance=setting.guidance, derivative=derivative
    )
    ctx = Context(u, None, torch.zeros(()), None)
    return objective(u, draw, ctx).per_sample.mean()


STEPS = {
    "full_batch_separate": separate_forward,
    "full_batch_one_pass": one_pass,
    "rows_only": rows_only,
    "finite_difference": partial(library, derivative=finite_difference),
    "ours": library,
}


class PlainBlock(nn.Module):
    """A DiT block as it is usually written, from timm's parts with fused attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, 1e-6, False) for _ in range(2))
        self.attn = Attention(width, heads, qkv_bias=True)
        gelu = partial(nn.GELU, approximate="tanh")
        self.mlp = Mlp(width, 4 * width, act_layer=gelu)  # pyright: ignore[reportArgumentType]
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, -1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class PlainDiT(nn.Module):
    """The same network around plain blocks: what our flow-matching step must not be slower than."""

    def __init__(self, net: DiT) -> None:
        super().__init__()
        self.net = net
        width, heads = net.config.width, net.config.heads
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in net.blocks)
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.net.x_embedder(z) + self.net.pos_embed
        c = self.net.conditioning(r, t, y)
        for block in self.blocks:
            x = block(x, c)
        final = self.net.final_layer
        shift, scale = final.modulation(nn.functional.silu(c))[:, None].chunk(2, -1)
        return self.net._unpatchify(final.linear(self.norm(x) * (1 + scale) + shift))


# --- measuring -----------------------------------------------------------------------------------


def network(setting: Setting) -> DiT:
    """Random weights everywhere: zeros of the usual start would make the derivative trivial."""
    torch.manual_seed(0)
    net = DiT(setting.config)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.02)
    return net.to(DEVICE)


def batch(setting: Setting) -> Draw:
    generator = torch.Generator().manual_seed(1)
    size = setting.config.image_size
    x = torch.randn(setting.batch, 4, size, size, generator=generator).to(DEVICE)
    y = torch.randint(CLASSES, (setting.batch,), generator=generator).to(DEVICE)
    ctx = Context(network(setting), None, torch.zeros(()), Random(1))
    return MeanFlow(p_equal=setting.p_equal).draw(x, y, ctx)


def full_step(net: nn.Module, loss: Step) -> None:
    for p in net.parameters():
        p.grad = None
    loss().backward()


def seconds(step: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock and processor time."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_bytes(step: Callable[[], None]) -> int:
    """Peak of what one step allocates, gradients included, weights not."""
    step()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]  # pyright: ignore
    return int(np.cumsum([size for _, size in sorted(changes)]).max())


def paired(step: Callable[[], None], base: Callable[[], None], pairs: int) -> dict:
    """Median ratio of `step` to `base` over interleaved pairs, 95% interval by bootstrap."""
    step()
    base()
    times = []
    for i in range(pairs):
        if i % 2:
            b, a = seconds(base), seconds(step)
        else:
            a, b = seconds(step), seconds(base)
        times.append((a, b))
    found: dict = {"pairs": pairs}
    for clock, prefix in enumerate(("", "cpu_")):
        ratios = np.array([a[clock] / b[clock] for a, b in times])
        draws = np.random.default_rng(0).choice(ratios, (2000, pairs))
        interval = np.quantile(np.median(draws, axis=1), [0.025, 0.975]).tolist()
        found[prefix + "ratio"], found[prefix + "interval"] = float(np.median(ratios)), interval
        found[prefix + "seconds"] = statistics.median(a[clock] for a, _ in times)
        found[prefix + "base_seconds"] = statistics.median(b[clock] for _, b in times)
    return found


def analytic_limit(setting: Setting) -> float:
    """Ratio of matrix products alone: a step is 3 forward passes, a tangent 1 (attention: 2)."""
    linear, attention = 24 * setting.width**2, 4 * setting.width * setting.tokens
    jump = 1 - setting.p_equal
    derivative = jump * (linear + 2 * attention) / (linear + attention)
    guidance = 1 + jump if setting.guided else 0  # null everywhere, own prediction where r < t
    return 1 + (derivative + guidance) / 3


def compare(setting: Setting, names: list[str], pairs: int) -> dict:
    """Every named step against flow matching, in time."""
    net, draw = network(setting), batch(setting)
    base = partial(full_step, net, partial(flow_matching, net, draw, setting))
    result = {}
    for name in names:
        step = partial(full_step, net, partial(STEPS[name], net, draw, setting))
        result[name] = paired(step, base, pairs)
        print(
            f"{setting} {name} {result[name]['ratio']:.3f} {result[name]['interval']}", flush=True
        )
    return result


def memory(setting: Setting) -> dict:
    net, draw = network(setting), batch(setting)
    steps = {"flow_matching": flow_matching, **STEPS}
    peaks = {
        name: peak_bytes(partial(full_step, net, partial(step, net, draw, setting)))
        for name, step in steps.items()
    }
    base = peaks["flow_matching"]
    return {name: {"mb": peak / 1e6, "ratio": peak / base} for name, peak in peaks.items()}


def difference_error(setting: Setting) -> list[dict]:
    """Relative error of the finite-difference derivative in float32, against forward mode."""
    net, draw = network(setting), batch(setting).split()[1]
    z, r, t, v = (a.double() for a in (draw.z, draw.r, draw.t, draw.v))
    with torch.no_grad():
        exact = total_derivative(net.double(), z, r, t, v, draw.y, detach=True)[1]
        net.float()
        rows = []
        for order in (1, 2):
            for step in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4):
                kwargs = {"step": step, "order": order}
                found = finite_difference(net, draw.z, draw.r, draw.t, draw.v, draw.y, **kwargs)[1]
                error = ((found - exact).norm() / exact.norm()).item()
                rows.append({**kwargs, "relative_error": error})
    return rows


def scaling(settings: list[Setting], pairs: int) -> dict:
    """Our ratio over sizes and token counts; time a row fitted as C * parameters^a * tokens^b."""
    rows = []
    for s in settings:
        parameters = sum(p.numel() for p in network(s).parameters())
        row = {"width": s.width, "depth": s.depth, "tokens": s.tokens, "batch": s.batch}
        found = compare(s, ["ours"], pairs)["ours"]
        rows.append({**row, "parameters": parameters, "limit": analytic_limit(s), **found})
    fits = {}
    design = np.array([[1, np.log(r["parameters"]), np.log(r["tokens"])] for r in rows])
    for name, key in (("ours", "cpu_seconds"), ("flow_matching", "cpu_base_seconds")):
        target = np.log([r[key] / r["batch"] for r in rows])
        solution = np.linalg.lstsq(design, target, rcond=None)[0]
        off = float(np.abs(design @ solution - target).max())
        fits[name] = {"parameters": solution[1], "tokens": solution[2], "worst_log_error": off}
    return {"rows": rows, "exponents": fits}


def headline(setting: Setting, pairs: int) -> dict:
    """What the claims rest on: our ratio, its parts, and whether the yardstick is honest."""
    net, draw = network(setting), batch(setting)

    def step(loss: Callable[..., Tensor], u: nn.Module = net) -> Callable[[], None]:
        return partial(full_step, u, partial(loss, u, draw, setting))

    plain = PlainDiT(net).to(DEVICE)
    ours = paired(step(library), step(flow_matching), pairs)
    print(f"ours: {ours}", flush=True)
    full_batch = paired(step(one_pass), step(library), pairs // 2)
    baseline = paired(step(flow_matching), step(flow_matching, plain), pairs // 2)
    peaks = memory(setting)
    return {
        "ours": ours["ratio"],
        "interval": ours["interval"],
        "cpu": {k: ours["cpu_" + k] for k in ("ratio", "interval")},
        "limit": analytic_limit(setting),
        "full_batch_one_pass_to_ours": full_batch,
        "extra_peak_memory": peaks["ours"]["ratio"] - 1,
        "baseline_to_plain_timm": baseline,
        "parameters": sum(p.numel() for p in net.parameters()),
        "setting": vars(setting),
        "headline": ours,
    }


def table(main: Setting, shares: list[float], pairs: int) -> list[dict]:
    """Every step, with and without guidance, for shares of rows with r = t."""
    rows = []
    for p_equal in shares:
        for guided in (False, True):
            s = replace(main, p_equal=p_equal, guided=guided)
            row = {"p_equal": p_equal, "guided": guided, "limit": analytic_limit(s)}
            rows.append({**row, "steps": compare(s, list(STEPS), pairs), "memory": memory(s)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small network; writes nothing")
    parser.add_argument("--pairs", type=int, default=40, help="pairs behind the headline ratio")
    parser.add_argument("--few", type=int, default=5, help="pairs behind every other ratio")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    setting, shares, few = Setting(), [0.75, 0.5, 0.0], args.few
    sizes = [(128, 4, 64), (256, 4, 16), (256, 4, 64), (256, 4, 256), (256, 8, 64), (384, 6, 64)]
    if args.quick:
        setting, shares, few = Setting(width=32, depth=1, tokens=16, batch=8), [0.75, 0.0], 2
        sizes = [(32, 1, 4), (32, 1, 16), (32, 2, 16), (64, 1, 16)]
    grid = [Setting(w, d, n, 8 if n > 64 or args.quick else 32) for w, d, n in sizes]
    result: dict = {}
    stages: list[Callable[[], dict]] = [
        lambda: headline(setting, 4 if args.quick else args.pairs),
        lambda: {"finite_difference_error": difference_error(setting)},
        lambda: {"scaling": scaling(grid, few)},
        lambda: {"table": table(setting, shares, few)},
    ]
    where = {"threads": args.threads, "device": str(DEVICE), "environment": environment()}
    for stage in stages:
        result = {**result, **stage(), **where}
        if not args.quick:  # after every stage: a run that is stopped leaves what it has measured
            write(args.output, result)
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
