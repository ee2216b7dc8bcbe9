"""``meanflow-lite train``: from data to weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from meanflow_lite.domains import trained
from meanflow_lite.runs import resume
from meanflow_lite.runs.build import Plan
from meanflow_lite.runs.cost import forward_macs, passes, peak_flops
from meanflow_lite.runs.data import DIGITS, Data, open_data
from meanflow_lite.runs.folder import CHECKPOINTS, RUN, write_info, write_weights
from meanflow_lite.runs.identity import changed, parse_changes, short
from meanflow_lite.runs.images import save_grid
from meanflow_lite.runs.model import Model, load
from meanflow_lite.runs.processes import joined, place, set_tf32, told
from meanflow_lite.runs.sampling import walk_times
from meanflow_lite.runs.settings import PRESETS, Settings
from meanflow_lite.training import Diverged, Record, Trainer, checkpoints
from meanflow_lite.training.checkpoint import read_checkpoint, restore
from meanflow_lite.training.fit import Stopped, fit, start
from meanflow_lite.training.logs import Logger
from meanflow_lite.training.saver import Saving

if TYPE_CHECKING:
    from meanflow_lite.data.vae import Vae

#: Where a run can start besides a checkpoint of another one.
HERE, COMPLETE = "here", "complete"


@dataclass(frozen=True)
class Train:
    """Train a network. Without any argument: 8x8 digits, on a CPU, in minutes.

    On several GPUs: `torchrun --nproc-per-node 8 -m meanflow_lite train --preset b2 --data DIR`.
    The run folder gets run.json, log.jsonl, tensorboard/, checkpoints/, grids/ and, at the end,
    model.safetensors. Stopped by Ctrl-C or a signal of a cluster (TERM, USR1, HUP, XCPU), it saves
    first; the same command goes on, and a finished run goes on with, say, `--change steps=5000`.

    Attributes:
        preset: the settings to start from; all others below have its values as defaults.
        data: `digits`, or a latent cache written by the encode command.
        out: folder of the run; default runs/PRESET.
        resume: `auto` goes on from the newest checkpoint in `out`, if there is one; `never`
            refuses a folder that holds a run; a checkpoint of another run, or its folder, starts
            there as a branch.
        change: settings that differ from those that the run had so far, such as lr=1e-4 clip=1
            steps=2000: noted in run.json. What the weights mean cannot change.
        init_from: weights to start from: a SiT checkpoint file, or the folder of another run. Read
            at the start only.
        teacher: folder of the run that teaches, for the distillation objectives.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        log_every: steps between two lines of the log.
        save_minutes: minutes between two checkpoints, which are written beside training.
        save_every: steps between two checkpoints, besides those by time.
        milestones: equal parts of the run of each of which one checkpoint is kept for ever.
        keep: number of other checkpoints kept.
        grid_every: steps between two grids of samples, always from the same noise; 0: none.
        vae: decoder for the grids of latents; default: grids show the first channels.
        settings: what the run learns.
    """

    preset: Literal["digits", "b4", "b2", "m2", "l2", "xl2", "xl2-plus"] = "digits"
    data: str = DIGITS
    out: Path | None = None
    resume: str = "auto"
    change: tuple[str, ...] = ()
    init_from: Path | None = None
    teacher: Path | None = None
    device: str = "auto"
    log_every: int = 50
    save_minutes: float = 15.0
    save_every: int | None = None
    milestones: int = 10
    keep: int = 3
    grid_every: int = 1000
    vae: str | None = None
    settings: Annotated[Settings, tyro.conf.arg(prefix_name=False)] = field(
        default_factory=lambda: PRESETS["digits"]
    )

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ValueError("--log-every must be at least 1")
        if self.grid_every < 0:
            raise ValueError("--grid-every must not be negative; 0 draws no grids")
        if self.out is not None and self.out.is_file():
            raise ValueError(f"--out {self.out} is a file: give the folder of the run")
        _ = self.saving, self.named  # refuse what they refuse

    @property
    def saving(self) -> Saving:
        """When checkpoints are written."""
        return Saving(self.save_minutes, self.save_every, self.milestones, self.keep)

    @property
    def named(self) -> dict[str, Any]:
        """The settings that may differ from those of the run so far."""
        return parse_changes(self.change)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / self.preset

    def run(self) -> None:
        """Train, resume and sample grids."""
        with joined(self.device) as device:
            settings = changed(self.settings, self.named)
            set_tf32(device, settings.tf32)
            data = open_data(self.data, settings.latent_scale)
            decoder = self._decoder(data, device)
            teacher = load(self.teacher, device).net if self.teacher else None
            plan = Plan.of(settings, data, teacher, self.data)
            with resume.holding(self.folder):
                self._run(plan, decoder, device)

    def _run(self, plan: Plan, decoder: Vae | None, device: torch.device) -> None:
        out, meaning = self.folder, plan.meaning
        origin = told(self._origin(plan) if place()[0] == 0 else None)
        if origin == COMPLETE:
            _say(f"{out} is complete. {_next(out)}")
            return
        trainer = plan.trainer(device, self.init_from if origin is None else None)
        found, history = self._go_on(trainer, plan, origin)
        about = {"preset": self.preset, "data": self.data, "command": resume.command()}
        info = plan.info(trainer, history, **about)
        if trainer.rank == 0:
            write_info(out, info)
            print(_summary(trainer, info, out, found), file=sys.stderr)
        settings = plan.settings
        flops = 2 * forward_macs(plan.config) * passes(settings).step
        peak = peak_flops(device, trainer.world, settings)
        logger = Logger(trainer, out, self.log_every, flops, peak)

        def on_step(record: Record) -> None:
            logger(record)
            if trainer.rank == 0 and self.grid_every and record.step % self.grid_every == 0:
                model = Model(trained(trainer.averages[0].net, trainer.objective.domain), info)
                _draw_grid(model, out / "grids" / f"step-{record.step:08d}.png", decoder)

        try:
            fit(trainer, out / CHECKPOINTS, meaning, self.saving, on_step)
        except Stopped:
            logger.say(f"stopped and saved at step {trainer.step}: the same command goes on there")
            raise
        except Diverged as error:
            raise Diverged(f"{error}. {resume.way_on(out, settings, self.named)}") from error
        finally:
            logger.close()
        if trainer.rank == 0:
            rate = trainer.config.ema[0]
            write_weights(out, trainer.field, info["identity"], trainer.step, rate)
            print(f"done. {_next(out)}", file=sys.stderr)

    def _decoder(self, data: Data, device: torch.device) -> Vae | None:
        """That of the grids, loaded before training: a wrong name should not wait for a grid."""
        if self.vae is None:
            return None
        if data.vae is None:
            raise ValueError(f"--vae decodes latents, and --data {self.data} has images")
        from meanflow_lite.data.vae import Vae

        return Vae(self.vae, device)

    def _origin(self, plan: Plan) -> str | Path | None:
        """Where the run starts: a checkpoint of its own, of another run, nowhere, or it is over."""
        out = self.folder
        if self.resume == "never":
            if (out / RUN).exists() or checkpoints(out / CHECKPOINTS):
                raise ValueError(
                    f"{out} already has a run: use --resume auto to go on, or another --out"
                )
            return None
        if resume.is_complete(out, short(plan.meaning), plan.steps):
            stored = resume.stored_settings(resume.earlier(out, aside=True), None)
            resume.agreed_changes(stored, plan.settings, self.named, out)
            return COMPLETE
        if checkpoints(out / CHECKPOINTS):
            return HERE
        resume.refuse_finished(out)
        return None if self.resume == "auto" else resume.branch_point(self.resume, out)

    def _go_on(
        self, trainer: Trainer, plan: Plan, origin: str | Path | None
    ) -> tuple[Path | None, list[dict[str, Any]]]:
        """Load the state to go on from; also what was changed so far, this time included."""
        out, named = self.folder, self.named
        if origin is None:
            return None, []
        if isinstance(origin, Path):
            found, run = origin, origin.parent.parent
            restore(trainer, read_checkpoint(origin), plan.meaning, origin)
        else:
            found, run = start(trainer, out / CHECKPOINTS, plan.meaning), out
        if trainer.rank > 0:
            return found, []
        info = resume.earlier(run, aside=run == out)
        stored = resume.stored_settings(info, found)
        changes = resume.agreed_changes(stored, plan.settings, named, run)
        if trainer.step > plan.steps:
            raise ValueError(f"{run} is at step {trainer.step} already, beyond {plan.steps} steps")
        entry = {"step": trainer.step, "changed": changes, "command": resume.command()}
        branch = {"branch_of": str(origin)} if isinstance(origin, Path) else {}
        for name, (before, now) in changes.items():
            print(f"from step {trainer.step} on: {name} {before} -> {now}", file=sys.stderr)
        history = list(info["changes"]) if info else []
        return found, history + ([{**entry, **branch}] if changes or branch else [])


def _draw_grid(model: Model, path: Path, vae: Vae | None) -> None:
    """Samples of up to ten classes from the same noise every time."""
    shown = min(10, model.num_classes)
    labels = torch.tensor([k for k in range(shown) for _ in range(8)])
    instant = model.info["domain"]["name"] == "instant"
    z = model.latents(model.noise(range(len(labels))), labels, walk_times(25 if instant else 1))
    if vae is not None:
        images = vae.decode(z / model.info["latent_scale"]).cpu()
    else:
        images = model.decode(z) if model.info["vae"] is None else z[:, :3]
    save_grid(images, path, 8)


def _next(out: Path) -> str:
    return f"Next: meanflow-lite sample --model {out}"


def _say(text: str) -> None:
    if place()[0] == 0:
        print(text, file=sys.stderr)


def _summary(trainer: Trainer, info: dict, out: Path, found: Path | None) -> str:
    settings = info["settings"]
    parameters = sum(p.numel() for p in trainer.net.parameters()) / 1e6
    return (
        f"{'going on from ' + str(found) if found else 'starting'}: {settings['objective']}, "
        f"{settings['network']} ({parameters:.2f} M parameters), {info['steps']} steps of "
        f"{settings['batch']} of {info['images']} images, {trainer.world} x {trainer.device}, "
        f"run folder {out}"
    )
