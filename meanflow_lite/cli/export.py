"""``meanflow-lite export``: a run for other programs: diffusers, ONNX, torch.export."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from meanflow_lite.runs.model import load


@dataclass(frozen=True)
class Export:
    """Write the one-step sampler of a run for other programs, or push the run to the Hub.

    Attributes:
        model: folder of a run, `digits`, or a published name.
        out: a name that ends in .onnx or in .pt2 (torch.export), or a folder for a diffusers
            pipeline.
        push: OWNER/REPOSITORY of the Hugging Face Hub; nothing is written here then.
        public: make that repository public.
    """

    model: Path = Path("digits")
    out: Path | None = None
    push: str | None = None
    public: bool = False

    def run(self) -> None:
        """Write it, and say how it is used."""
        if (self.out is None) == (self.push is None):
            raise ValueError(
                "give either --out NAME.onnx, NAME.pt2 or FOLDER, or --push REPOSITORY"
            )
        model = load(self.model)
        if self.push is not None:
            print(model.push_to_hub(self.push, private=not self.public))
            return
        assert self.out is not None
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.out.suffix == ".onnx":
            from meanflow_lite.weights.export import export_onnx

            names = export_onnx(model.net, model.info, self.out)
            print(f"{self.out}: inputs {', '.join(names)}; output sample", file=sys.stderr)
        elif self.out.suffix == ".pt2":
            from meanflow_lite.weights.export import export_program, inputs

            export_program(model.net, model.info, self.out)
            names = ", ".join(inputs(model.net, model.info))
            print(f"{self.out}: torch.export.load(...).module()({names})", file=sys.stderr)
        else:
            model.pipeline().save_pretrained(self.out)
            said = "meanflow_lite.runs.pipeline.FlowMapPipeline.from_pretrained"
            print(f"{said}({str(self.out)!r})", file=sys.stderr)
