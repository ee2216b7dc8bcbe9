"""The one-step sampler as one graph: ``torch.export`` and ONNX, for programs without this package.

The graph takes noise and labels, and what the network is told besides; it returns the sample before
any decoder. The batch may have any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from meanflow_lite.domains import Domain
from meanflow_lite.files import writing

INSTALL = 'pip install "meanflow-lite[export]"'
#: Rows of the example that is traced: not one, which would be taken for a constant.
ROWS = 2


class OneStep(nn.Module):
    r""":math:`x = \\epsilon - u(\\epsilon, 0, 1, y)`, with further inputs by position."""

    def __init__(self, net: nn.Module, told: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.told = net, told

    def forward(self, noise: Tensor, labels: Tensor, *values: Tensor) -> Tensor:
        """Noise [B, C, H, W], labels [B] and the named values to samples [B, C, H, W]."""
        one = torch.ones_like(noise[:, 0, 0, 0])
        cond = dict(zip(self.told, values, strict=True))
        return noise - self.net(noise, torch.zeros_like(one), one, labels, **cond)


def inputs(net: nn.Module, info: Mapping[str, Any]) -> dict[str, Tensor]:
    """An example of every input, by name and in order."""
    noise = torch.randn(ROWS, *info["shape"]) * info.get("noise_scale", 1.0)
    example = {"noise": noise, "labels": torch.zeros(ROWS, dtype=torch.long)}
    told = info.get("sampling", {})
    example |= {name: torch.full((ROWS,), float(value)) for name, value in told.items()}
    config: Any = net.config
    if hasattr(config, "noise_coordinates"):
        shape = (ROWS, config.noise_coordinates)
        example["noise_labels"] = torch.zeros(shape, dtype=torch.long)
    return example


def export_program(net: nn.Module, info: Mapping[str, Any], path: Path | str) -> ExportedProgram:
    """Write a ``.pt2`` that ``torch.export.load(path).module()`` runs; returns it.

    Raises:
        ValueError: the field has no jump from noise to data.
    """
    program = _traced(net, info)
    with writing(path) as file:
        torch.export.save(program, file)  # pyright: ignore[reportArgumentType]
    return program


def export_onnx(net: nn.Module, info: Mapping[str, Any], path: Path | str) -> list[str]:
    """Write an ``.onnx`` file; returns the names of its inputs.

    Raises:
        ValueError: the field has no jump from noise to data.
        ImportError: the extra ``export`` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX is written by onnx and onnxscript: {INSTALL}") from error
    names = list(inputs(net, info))
    made: Any = torch.onnx.export(
        _traced(net, info),
        input_names=names,
        output_names=["sample"],
        dynamo=True,
        verbose=False,
    )
    with writing(path) as file:
        file.write(made.model_proto.SerializeToString())
    return names


def _traced(net: nn.Module, info: Mapping[str, Any]) -> ExportedProgram:
    Domain(**info["domain"]).check([1.0, 0.0])
    example = inputs(net, info)
    told = tuple(name for name in example if name not in ("noise", "labels"))
    batch = Dim("batch", min=1)
    first: Any = ({0: batch}, {0: batch})
    dynamic = (*first, tuple({0: batch} for _ in told)) if told else first
    module = OneStep(net, told).eval()
    return torch.export.export(module, tuple(example.values()), dynamic_shapes=dynamic)
