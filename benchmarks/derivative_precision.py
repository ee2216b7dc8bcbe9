"""What bfloat16 does to du/dt and to MeanFlow's target, on networks untrained and trained.

    python benchmarks/derivative_precision.py            # a minute on a CPU; prints the table

For the jump rows of a batch of 8x8 digits: the error of du/dt over its size, and the error of the
target over the size of the residual u - target, which is what the gradient is made of. Compared
with float32 are the step in bfloat16 and the step with ``derivative_fp32``. ``logit`` is the
largest attention logit of the batch: the explicit softmax of a tangent loses digits with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.data.digits import digits
from meanflow_lite.identity import derivatives_in_float32
from meanflow_lite.networks import build
from meanflow_lite.networks.attention import Attention
from meanflow_lite.networks.tangent import Dual
from meanflow_lite.objectives import Context, MeanFlow, Random
from meanflow_lite.training import TrainConfig, train

SEEDS = range(8)
OBJECTIVE = MeanFlow(p_equal=0.0)


def networks(seed: int, data: FromTensors) -> Iterator[tuple[str, nn.Module]]:
    """Weights of ordinary size without training, then 60 and 300 steps of it, then large logits."""
    torch.manual_seed(seed)
    net = build("digits-XS", num_classes=10)
    for p in net.parameters():
        if p.ndim > 1 and not p.any():
            nn.init.normal_(p, std=0.02)
    yield "untrained", net
    for steps in (60, 300):
        torch.manual_seed(seed)
        fresh = build("digits-XS", num_classes=10)
        config = TrainConfig(steps=steps, batch=64, lr=1e-3, seed=seed)
        trained, _ = train(fresh, MeanFlow(), data, config)
        yield f"{steps} steps", trained
    for module in trained.modules():
        if isinstance(module, Attention):
            width = module.qkv.in_features
            with torch.no_grad():
                module.qkv.weight[: 2 * width] *= 3  # logits nine times as large
    yield f"{steps} steps, logits x 9", trained


def logit(net: nn.Module, run) -> float:
    """The largest attention logit while ``run`` evaluates."""
    seen = [0.0]

    def note(module: nn.Module, inputs: tuple[Dual, ...]) -> None:
        q, k, _ = module._split(module.qkv(inputs[0].primal))  # pyright: ignore
        seen.append(float((q @ k.mT).abs().max()) * q.shape[-1] ** -0.5)

    hooks = [m.register_forward_pre_hook(note) for m in net.modules() if isinstance(m, Attention)]
    run()
    for hook in hooks:
        hook.remove()
    return max(seen)


def main() -> None:
    """Print medians and worst values over the seeds."""
    x, y = digits()
    data = FromTensors(x, y)
    table: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        for name, net in networks(seed, data):
            context = Context(net, None, torch.tensor(0.5), Random(seed))
            draw = OBJECTIVE.draw(x[:64], y[:64], context)

            def target(bf16: bool, apart: bool, net=net, draw=draw, context=context):
                with (
                    torch.no_grad(),
                    torch.autocast("cpu", torch.bfloat16, enabled=bf16),
                    derivatives_in_float32(apart),
                ):
                    u, aim = OBJECTIVE.prediction_and_target(net, draw, context)
                return u.float(), aim.float()

            u, exact = target(False, False)
            row = [logit(net, lambda run=target: run(False, False))]
            for apart in (False, True):
                gap = (target(True, apart)[1] - exact).norm()
                row += [float(gap / (exact - draw.v).norm()), float(gap / (u - exact).norm())]
            table.setdefault(name, []).append(row)
    head = ("logit", "du/dt bf16", "target bf16", "du/dt fp32", "target fp32")
    print(f"{'network':24s}" + "".join(f"{h:>22s}" for h in head) + "   median (worst)")
    for name, rows in table.items():
        values = torch.tensor(rows)
        pairs = zip(values.median(0).values.tolist(), values.max(0).values.tolist(), strict=True)
        print(f"{name:24s}" + "".join(f"{f'{m:.3g} ({w:.3g})':>22s}" for m, w in pairs))


if __name__ == "__main__":
    main()
