"""``meanflow-lite doctor``: what this machine has and what works on it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.distributed as dist
from torch.nn import functional as F

from meanflow_lite.networks.presets import build

PACKAGES = ("meanflow-lite", "torch", "torchvision", "timm", "numpy", "safetensors", "diffusers")
PACKAGES += ("torch-fidelity", "tensorboard", "tyro")
#: Packages of the extras that are for published weights and for other programs.
EXTRAS = {
    "weights": ("tensorstore", "msgpack", "huggingface_hub"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}


@dataclass(frozen=True)
class Doctor:
    """Show versions and devices, and try what training needs. Paste it into a bug report.

    Attributes:
        compile: try `torch.compile` as well (a minute on a CPU).
    """

    compile: bool = False

    def run(self) -> None:
        """Print one line a check; exits with 1 if the derivative does not work."""
        _print("python", f"{platform.python_version()} on {platform.platform()}")
        for package in PACKAGES:
            _print(package, _version(package))
        for extra, packages in EXTRAS.items():
            _print(f"extra {extra}", _extra(extra, packages))
        _print("published weights", _weights())
        _print("threads", f"{torch.get_num_threads()} of {os.cpu_count()} CPUs")
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            _print(f"GPU {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
        if not torch.cuda.is_available():
            _print("GPU", "none visible: everything runs on the CPU")
        works = _try("derivative (JVP)", _derivative)
        _try("fused attention", _attention)
        _try("bfloat16", _bfloat16)
        _try(f"processes ({_backend()})", _processes)
        if self.compile:
            _try("torch.compile", _compile)
        else:
            _print("torch.compile", "not tried: --compile True tries it")
        if not works:
            sys.exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _extra(extra: str, packages: tuple[str, ...]) -> str:
    found = {package: _version(package) for package in packages}
    said = ", ".join(f"{package} {number}" for package, number in found.items())
    if "not installed" in found.values():
        said += f': pip install "meanflow-lite[{extra}]"'
    return said


def _weights() -> str:
    """Runs that were made of published weights when their names were first asked for."""
    from meanflow_lite.weights.hub import cache
    from meanflow_lite.weights.importing import RUN

    here = sorted(path.parent.name for path in cache().glob(f"*/{RUN}"))
    return f"{', '.join(here) or 'none yet'} in {cache()}"


def _print(name: str, value: str) -> None:
    print(f"{name:<20} {value}")


def _try(name: str, check: Callable[[], str]) -> bool:
    try:
        _print(name, check())
    except Exception as error:  # any failure is a finding here
        _print(name, f"FAILS: {type(error).__name__}: {str(error).splitlines()[0]}")
        return False
    return True


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _inputs() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    net = build("digits-XS").to(_device()).requires_grad_(False)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    z = torch.randn(4, 1, 8, 8, device=_device())
    return net, (z, torch.zeros(4, device=_device()), torch.ones(4, device=_device()))


def _derivative() -> str:
    net, (z, r, t) = _inputs()
    exact = torch.func.jvp(net, (z, r, t), (z, torch.zeros_like(r), torch.ones_like(t)))[1]
    h = 1e-2
    difference = (net(z + h * z, r, t + h) - net(z - h * z, r, t - h)) / (2 * h)
    error = float((exact - difference).norm() / exact.norm())
    if not error < 0.05:
        raise RuntimeError(f"differs from a finite difference by {error:.1%}")
    return f"works, {error:.1e} from a finite difference"


def _attention() -> str:
    q = torch.randn(4, 4, 64, 32, device=_device())
    fused = F.scaled_dot_product_attention(q, q, q)
    plain = (q @ q.mT * 32**-0.5).softmax(-1) @ q
    return f"works, {float((fused - plain).abs().max()):.1e} from the explicit softmax"


def _bfloat16() -> str:
    net, (z, r, t) = _inputs()
    exact = net(z, r, t)
    with torch.autocast(_device(), torch.bfloat16):
        error = float((net(z, r, t).float() - exact).norm() / exact.norm())
    if not 0 < error < 0.1:
        raise RuntimeError(f"differs from float32 by {error:.1%}")
    return f"works, {error:.1e} from float32"


def _processes() -> str:
    store = dist.HashStore()  # pyright: ignore
    dist.init_process_group(_backend(), store=store, rank=0, world_size=1)
    try:
        dist.all_reduce(torch.ones(1, device=_device()))
    finally:
        dist.destroy_process_group()
    return "works"


def _compile() -> str:
    net, inputs = _inputs()
    start = time.perf_counter()
    compiled = torch.compile(net)
    difference = float((compiled(*inputs) - net(*inputs)).abs().max())
    return f"works, {time.perf_counter() - start:.0f} s to compile, differs by {difference:.1e}"
