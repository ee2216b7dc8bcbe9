"""The command line: ``meanflow-lite`` or ``python -m meanflow_lite``, one subcommand a stage."""

from __future__ import annotations

import errno
import sys
import warnings
from dataclasses import replace
from typing import Any

import tyro

from meanflow_lite.cli.cost import Cost
from meanflow_lite.cli.doctor import Doctor
from meanflow_lite.cli.encode import Encode, Verify
from meanflow_lite.cli.fid import Fid
from meanflow_lite.cli.model import Model, load
from meanflow_lite.cli.sample import Sample
from meanflow_lite.cli.settings import PRESETS, Settings
from meanflow_lite.cli.train import Train
from meanflow_lite.training import CheckpointError, Diverged

__all__ = ["PRESETS", "Model", "Settings", "load", "main", "parse"]

COMMANDS: dict[str, Any] = {
    "doctor": Doctor,
    "encode": Encode,
    "verify": Verify,
    "train": Train,
    "sample": Sample,
    "fid": Fid,
    "cost": Cost,
}

#: What a full disk, a full quota or the limit on a file's size is called.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

DESCRIPTION = """One-step image generation with MeanFlow, one command a stage.

In the order of use: doctor, cost, encode, verify, train, sample, fid. Each has `--help`. To try it:
train, sample and fid work without arguments, on scikit-learn's 8x8 digits."""


def parse(arguments: list[str]) -> Any:
    """The subcommand with its options, not run: a config dataclass."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: _with_preset(kind, arguments) for name, kind in COMMANDS.items()},
        prog="meanflow-lite",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; mistakes of the user end with one line that says what to do."""
    # The first forward-mode derivative of a process makes PyTorch 2.14 warn about itself.
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
    # DDP's name for it that older versions do not know yet.
    warnings.filterwarnings("ignore", r"`broadcast_buffers` is deprecated")
    command = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        command.run()
    except (ValueError, ImportError, OSError, CheckpointError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, OSError) and error.errno in FULL:
            print(
                "free space, then run the same command: encode and train go on where they were",
                file=sys.stderr,
            )
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _with_preset(kind: Any, arguments: list[str]) -> Any:
    """A subcommand whose defaults are those of the preset on the command line, if it has one."""
    name = _value_of("--preset", arguments)
    if "settings" not in getattr(kind, "__dataclass_fields__", {}) or name not in PRESETS:
        return kind
    default = replace(kind(), preset=name, settings=PRESETS[name])

    def build(config: Any = default) -> Any:
        return config

    build.__doc__ = kind.__doc__
    return build


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == flag:
            return following
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None
