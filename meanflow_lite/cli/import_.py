"""``meanflow-lite import``: published weights become a run folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from meanflow_lite.weights.fetching import fetched
from meanflow_lite.weights.importing import count, open_checkpoint, write_run
from meanflow_lite.weights.names import Sizes


@dataclass(frozen=True)
class Import:
    """Make a run folder of published weights: iMF, pMF, MeanFlow, Drifting, SiT.

    Nothing in a file is executed. Orbax and msgpack files need the extra `weights`.

    Attributes:
        source: a folder, zip, .pt, .safetensors or .msgpack; a published name such as imf-b2; or
            hf:OWNER/REPOSITORY/PATH, which is fetched from the Hugging Face Hub.
        out: the run folder to write.
        ema: which average, where the file holds several.
        new_labels: number of classes of a new, untrained label table, to fine-tune on other data.
        heads: attention heads, where sizes are not the published ones and the file cannot tell.
        image_size: side of the network's input, where it is not the published one.
    """

    source: tyro.conf.Positional[str]
    out: Path
    ema: str | None = None
    new_labels: int | None = None
    heads: int | None = None
    image_size: int | None = None

    def run(self) -> None:
        """Import, and say what it is."""
        path, known = fetched(self.source)
        imported = open_checkpoint(
            path,
            ema=self.ema or (known.average if known else None),
            sizes=Sizes(self.image_size, self.heads),
            new_labels=self.new_labels,
            called=self.source,
        )
        write_run(imported, self.out)
        about = imported.info["imported"]
        print(
            f"{about['family']} {about['name'] or '(sizes of no preset)'}: "
            f"{count(imported.net) / 1e6:.2f} M parameters, average {about['average'] or 'none'}, "
            f"licence {about['licence']}",
            file=sys.stderr,
        )
        for note in imported.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"written to {self.out}. Next: meanflow-lite sample --model {self.out}")
