"""The command line: ``meanflow-lite`` or ``python -m meanflow_lite``, one subcommand a stage.

Nothing that computes is imported before a subcommand is known, so that help comes at once.
"""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import tyro


@dataclass(frozen=True)
class Command:
    """Where a subcommand stands: imported when it is asked for."""

    module: str
    name: str
    summary: str

    def load(self) -> Any:
        """Its class: a dataclass of its options with a method ``run``."""
        return getattr(import_module(f"meanflow_lite.cli.{self.module}"), self.name)


COMMANDS = {
    "doctor": Command(
        "doctor", "Doctor", "Show versions and devices, and try what training needs."
    ),
    "cost": Command("cost", "Cost", "Estimate what a training run takes, before paying for it."),
    "encode": Command(
        "encode", "Encode", "Encode images by a VAE, once, so that training reads latents."
    ),
    "verify": Command(
        "encode",
        "Verify",
        "Find the damaged shards of a latent cache, or encode just those again.",
    ),
    "train": Command("train", "Train", "Train a network."),
    "import": Command("import_", "Import", "Make a run folder of published weights."),
    "sample": Command("sample", "Sample", "Sample images."),
    "compare": Command(
        "compare", "Compare", "Draw several models on the same noise, one row a model."
    ),
    "export": Command(
        "export",
        "Export",
        "Write the one-step sampler of a run for other programs, or push the run to the Hub.",
    ),
    "fid": Command("fid", "Fid", "Compare samples with a reference."),
}

#: What a full disk or a full quota is called.
FULL = (errno.ENOSPC, errno.EDQUOT)

DESCRIPTION = """One-step image generation with MeanFlow, one command a stage, in the order of use.
To try it: train, sample and fid work without arguments, on scikit-learn's 8x8 digits."""


def parse(arguments: list[str]) -> Any:
    """The subcommand with its options, not run: a config dataclass."""
    name, *options = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        raise SystemExit(0)
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}\n\n{overview()}", file=sys.stderr)
        raise SystemExit(2)
    kind = COMMANDS[name].load()
    return tyro.cli(
        kind,
        prog=f"meanflow-lite {name}",
        args=_spelled_out(kind, options),
        default=_of_preset(kind, options),
        config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
    )


def overview() -> str:
    """What ``meanflow-lite --help`` shows."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: meanflow-lite COMMAND [OPTIONS]"
    last = "Options of a command: meanflow-lite COMMAND --help"
    return "\n".join([usage, "", DESCRIPTION, "", *lines, "", last])


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; mistakes of the user end with one line that says what to do."""
    command = parse(sys.argv[1:] if arguments is None else arguments)
    # The first forward-mode derivative of a process makes PyTorch 2.14 warn about itself.
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
    # DDP's name for it that older versions do not know yet.
    warnings.filterwarnings("ignore", r"`broadcast_buffers` is deprecated")
    from meanflow_lite.runs.processes import leave, place
    from meanflow_lite.training import CheckpointError

    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        command.run()
    except (ValueError, ImportError, OSError, CheckpointError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, OSError) and error.errno in FULL:
            print(
                "free space, then run the same command: encode and train go on where they were",
                file=sys.stderr,
            )
        leave(2)
    except RuntimeError as error:
        if not _lost_another(error):
            raise
        print(f"error: another process has ended; it said why ({error})", file=sys.stderr)
        leave(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        leave(130)
    except Exception:
        if place()[1] == 1:
            raise
        traceback.print_exc()  # before anything waits for the other processes
        leave(1)


def _lost_another(error: RuntimeError) -> bool:
    """Whether one of several processes only says that another one is gone."""
    import torch.distributed as dist

    said = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "timed out")
    return dist.is_initialized() and any(text in str(error) for text in said)


def _of_preset(kind: Any, options: list[str]) -> Any:
    """The subcommand's defaults, if it has settings: those of the preset that is named last."""
    if "settings" not in kind.__dataclass_fields__:
        return None
    from meanflow_lite.runs.settings import PRESETS

    name = _value_of("--preset", options)
    return replace(kind(), preset=name, settings=PRESETS[name]) if name in PRESETS else None


def _value_of(flag: str, options: list[str]) -> str | None:
    found = None
    for option, following in zip(options, [*options[1:], None], strict=False):
        if option == flag:
            found = following
        elif option.startswith(flag + "="):
            found = option.split("=", 1)[1]
    return found


def _spelled_out(kind: Any, options: list[str]) -> list[str]:
    """A switch without a value means True, and true is True."""
    from dataclasses import fields

    names = {f.name for f in fields(kind) if f.type in ("bool", bool)}
    if "settings" in kind.__dataclass_fields__:
        from meanflow_lite.runs.settings import Settings

        names |= {f.name for f in fields(Settings) if f.type in ("bool", bool)}
    switches = {f"--{spelled}" for name in names for spelled in (name, name.replace("_", "-"))}
    said: list[str] = []
    for option, following in zip(options, [*options[1:], "--"], strict=False):
        after_switch = bool(said) and said[-1] in switches
        said.append(option.capitalize() if after_switch else option)
        if option in switches and following.startswith("-"):
            said.append("True")
    return said
