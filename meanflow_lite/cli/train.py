"""``meanflow-lite train``: from data to weights."""

from __future__ import annotations

import argparse
import pickle
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import tyro
from safetensors.torch import load_file
from torch import nn

from meanflow_lite.networks.dit import DiT
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.networks.sit import from_sit
from meanflow_lite.objectives import trained
from meanflow_lite.runs.cost import forward_macs, passes, peak_flops
from meanflow_lite.runs.data import DIGITS, Data, open_data
from meanflow_lite.runs.images import save_grid
from meanflow_lite.runs.model import Model, load, write_info, write_weights
from meanflow_lite.runs.processes import joined, set_tf32
from meanflow_lite.runs.sampling import walk_times
from meanflow_lite.runs.settings import PRESETS, Settings
from meanflow_lite.training import Record, Trainer, checkpoints
from meanflow_lite.training.checkpoint import check_shapes, versions
from meanflow_lite.training.fit import Stopped, fit, start
from meanflow_lite.training.logs import Logger

if TYPE_CHECKING:
    from meanflow_lite.data.latents import Vae


@dataclass(frozen=True)
class Train:
    """Train a network. Without any argument: 8x8 digits, on a CPU, in minutes.

    On several GPUs: `torchrun --nproc-per-node 8 -m meanflow_lite train --preset b2 --data DIR`.
    The run folder gets run.json, log.jsonl, tensorboard/, checkpoints/, grids/ and, at the end,
    model.safetensors. Stopped by Ctrl-C or SIGTERM, it saves first; the same command goes on.

    Attributes:
        preset: the settings to start from; all others below have its values as defaults.
        data: `digits`, or a latent cache written by the encode command.
        out: folder of the run; default runs/PRESET.
        resume: `auto` goes on from the newest checkpoint in `out`, if there is one; `never`
            refuses a folder that has checkpoints.
        init_from: weights to start from: a SiT checkpoint file, or the folder of another run.
        teacher: folder of the run that teaches, for the distillation objectives.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints.
        keep: number of checkpoints kept.
        grid_every: steps between two grids of samples, always from the same noise; 0: none.
        vae: decoder for the grids of latents; default: grids show the first channels.
        settings: what the run learns.
    """

    preset: Literal["digits", "b4", "b2", "m2", "l2", "xl2", "xl2-plus"] = "digits"
    data: str = DIGITS
    out: Path | None = None
    resume: Literal["auto", "never"] = "auto"
    init_from: Path | None = None
    teacher: Path | None = None
    device: str = "auto"
    log_every: int = 50
    save_every: int = 1000
    keep: int = 3
    grid_every: int = 1000
    vae: str | None = None
    settings: Annotated[Settings, tyro.conf.arg(prefix_name=False)] = field(
        default_factory=lambda: PRESETS["digits"]
    )

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.grid_every < 0:
            raise ValueError("--grid-every must not be negative; 0 draws no grids")
        if self.out is not None and self.out.is_file():
            raise ValueError(f"--out {self.out} is a file: give the folder of the run")

    def run(self) -> None:
        """Train, resume and sample grids."""
        with joined(self.device) as device:
            self._run(device)

    def _run(self, device: torch.device) -> None:
        out = self.out or Path("runs") / self.preset
        set_tf32(device, self.settings.tf32)
        data = open_data(self.data, self.settings.latent_scale)
        decoder = self._decoder(data, device)
        trainer = self._trainer(data, device)
        if self.resume == "never" and checkpoints(out / "checkpoints"):
            raise ValueError(
                f"{out} already has checkpoints: use --resume auto to go on, or another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        steps = trainer.config.steps
        identity = {**self.settings.identity(), "data": data.content, "steps": steps}
        found = start(trainer, out / "checkpoints", identity)
        info = self._info(data, trainer)
        if trainer.rank == 0:
            write_info(out, info)
            print(_summary(trainer, info, out, found), file=sys.stderr)
        flops = 2 * forward_macs(NETWORKS[self.settings.network]) * passes(self.settings).step
        logger = Logger(
            trainer,
            out,
            self.log_every,
            flops,
            peak_flops(device, trainer.world, self.settings),
        )

        def on_step(record: Record) -> None:
            logger(record)
            if trainer.rank == 0 and self.grid_every and record.step % self.grid_every == 0:
                model = Model(trained(trainer.averages[0].net, trainer.objective.domain), info)
                _draw_grid(model, out / "grids" / f"step-{record.step:08d}.png", decoder)

        try:
            fit(trainer, out / "checkpoints", identity, self.save_every, self.keep, on_step)
        except Stopped:
            logger.say(f"stopped and saved at step {trainer.step}: the same command goes on there")
            raise
        finally:
            logger.close()
        if trainer.rank == 0:
            write_weights(out, trainer.field)
            print(f"done. Next: meanflow-lite sample --model {out}", file=sys.stderr)

    def _decoder(self, data: Data, device: torch.device) -> Vae | None:
        """That of the grids, loaded before training: a wrong name should not wait for a grid."""
        if self.vae is None:
            return None
        if data.vae is None:
            raise ValueError(f"--vae decodes latents, and --data {self.data} has images")
        from meanflow_lite.data.latents import Vae

        return Vae(self.vae, device)

    def _trainer(self, data: Data, device: torch.device) -> Trainer:
        torch.manual_seed(self.settings.seed)  # the initial weights
        net = self._network(data).to(device)
        objective = self.settings.make_objective(data.num_classes)
        if isinstance(objective, nn.Module):
            objective.to(device)
        teacher = load(self.teacher, device).net if self.teacher else None
        config = self.settings.train_config(data.images)
        return Trainer(net, objective, data.batches, config, teacher)

    def _network(self, data: Data) -> DiT:
        config = NETWORKS[self.settings.network]
        wanted = (config.channels, config.image_size, config.image_size)
        if data.shape != wanted:
            raise ValueError(
                f"--data {self.data} is {data.shape} an image but --network "
                f"{self.settings.network} takes "
                f"{wanted}: choose another --network or --preset, or other --data (latents come "
                "from `meanflow-lite encode`)"
            )
        if self.init_from is None:
            return self.settings.make_network(data.num_classes)
        if self.init_from.is_dir():
            net = self.settings.make_network(data.num_classes)
            tensors = load(self.init_from).net.state_dict()
            check_shapes(net, tensors, self.init_from)
            net.load_state_dict(tensors)
            return net
        sized = replace(config, num_classes=data.num_classes, checkpoint=self.settings.checkpoint)
        return from_sit(read_weights(self.init_from), sized)

    def _info(self, data: Data, trainer: Trainer) -> dict:
        return {
            "settings": asdict(self.settings),
            "preset": self.preset,
            "data": self.data,
            "images": data.images,
            "steps": trainer.config.steps,
            "num_classes": data.num_classes,
            "shape": list(data.shape),
            "vae": data.vae,
            "domain": asdict(trainer.objective.domain),
            "command": shlex.join(["meanflow-lite", *sys.argv[1:]]),
            "processes": trainer.world,
            "versions": versions(),
        }


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint, its moving average if it has one. Runs no code."""
    if not path.is_file():
        raise ValueError(f"--init-from {path}: there is no such file or run folder")
    if path.suffix == ".safetensors":
        return load_file(path)
    # SiT stores its command line beside the weights: names and values, no code
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is refused because loading it "
            "would run its code: convert it to safetensors where you trust it"
        ) from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(torch.is_tensor(v) for v in stored.values()):
        raise ValueError(f"{path} holds no weights: names and tensors, or `ema` or `model` of them")
    return stored


def _draw_grid(model: Model, path: Path, vae: Vae | None) -> None:
    """Samples of up to ten classes from the same noise every time."""
    shown = min(10, model.num_classes)
    labels = torch.tensor([k for k in range(shown) for _ in range(8)])
    instant = model.info["domain"]["name"] == "instant"
    z = model.latents(model.noise(range(len(labels))), labels, walk_times(25 if instant else 1))
    if vae is not None:
        images = vae.decode(z / model.info["settings"]["latent_scale"]).cpu()
    else:
        images = model.decode(z) if model.info["vae"] is None else z[:, :3]
    save_grid(images, path, 8)


def _summary(trainer: Trainer, info: dict, out: Path, found: Path | None) -> str:
    settings = info["settings"]
    parameters = sum(p.numel() for p in trainer.net.parameters()) / 1e6
    return (
        f"{'going on from ' + str(found) if found else 'starting'}: {settings['objective']}, "
        f"{settings['network']} ({parameters:.2f} M parameters), {info['steps']} steps of "
        f"{settings['batch']} of {info['images']} images, {trainer.world} x {trainer.device}, "
        f"run folder {out}"
    )
