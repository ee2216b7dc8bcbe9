"""What a run's weights mean, and what may change on the way.

The *identity* of a run is what its weights mean: network, objective and guidance, data and its
scale, classes, teacher. Two states belong to one run if their identities are equal. All other
settings (learning rate, precision, length, seed, ...) may change when the run goes on, if they are
named: ``--change lr=1e-4 clip=1 steps=2000``. How a step is computed (``FREE``) may change unsaid.
"""

from __future__ import annotations

import ast
import hashlib
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from torch import nn

from meanflow_lite.files import fits
from meanflow_lite.files.write import digest_of
from meanflow_lite.runs.settings import Settings

#: Settings that belong to the identity.
MEANING = (
    "network",
    "objective",
    "p_equal",
    "p",
    "c",
    "time_mean",
    "time_std",
    "omega",
    "kappa",
    "t_guided",
    "label_dropout",
    "latent_scale",
)
#: Settings that change how a step is computed and nothing else.
FREE = ("accumulate", "compile", "checkpoint")


def identity(
    settings: Settings,
    network: Mapping[str, Any],
    data: str,
    num_classes: int,
    teacher: nn.Module | None = None,
) -> dict[str, Any]:
    """What must be equal for two states to belong to one run; ``data`` names the content."""
    chosen = asdict(settings)
    sizes = {k: v for k, v in network.items() if k != "checkpoint"}
    return {
        **{name: chosen[name] for name in MEANING},
        "sizes": sizes,
        "data": data,
        "num_classes": num_classes,
        "teacher": None if teacher is None else weights_digest(teacher),
    }


def short(meaning: Mapping[str, Any]) -> str:
    """The hash of an identity that ``run.json`` and ``model.safetensors`` share."""
    return digest_of(typing.cast(Mapping, _plain(meaning)))[:16]


def weights_digest(net: nn.Module) -> str:
    """A short hash of all weights of a network: samples of two states of a run are not mixed."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def parse_changes(given: Sequence[str]) -> dict[str, Any]:
    """``["lr=1e-4", "clip=None", "ema=0.9,0.99"]`` as settings and their values.

    Raises:
        ValueError: for what is no ``name=value``, no setting, not its kind, or is part of the
            identity.
    """
    kinds = typing.get_type_hints(Settings)
    changes = {}
    for item in given:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in kinds:
            raise ValueError(
                f"--change takes settings such as lr=1e-4 or steps=2000: got {item!r}. Settings: "
                f"{', '.join(n for n in kinds if n not in MEANING)}"
            )
        if name in MEANING:
            raise ValueError(
                f"--change {name}: a run cannot change what its weights mean. Start another one "
                f"with --out NEW --init-from RUN --{name.replace('_', '-')} {text}"
            )
        changes[name] = _value(name, text, kinds[name])
    return changes


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with these changes; ``epochs`` without ``steps`` sets the length anew."""
    if "epochs" in changes and "steps" not in changes:
        changes = {**changes, "steps": None}
    return replace(settings, **changes)


def differences(stored: Mapping[str, Any], settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings outside the identity that differ from stored ones: ``{name: (there, here)}``."""
    here = _plain(asdict(settings))
    names = [f.name for f in fields(Settings) if f.name not in MEANING]
    return {n: (stored[n], here[n]) for n in names if n in stored and stored[n] != here[n]}


def as_options(changes: Mapping[str, Any]) -> str:
    """``--change lr=0.0001 ema=0.9,0.99``: what a person types."""

    def text(value: Any) -> str:
        listed = isinstance(value, list | tuple)
        return ",".join(map(str, value)) if listed else str(value)

    return shlex.join(["--change", *(f"{name}={text(value)}" for name, value in changes.items())])


def _value(name: str, text: str, kind: Any) -> Any:
    wanted, listed = _listed(kind)
    try:
        value = ast.literal_eval(text.strip().capitalize() if wanted is bool else text.strip())
    except (ValueError, SyntaxError):
        value = text
    value = [*value] if isinstance(value, tuple) else [value] if listed else value
    if "float" in str(kind):  # 1 is a learning rate too
        value = [_real(v) for v in value] if listed else _real(value)
    if not fits(value, wanted):
        raise ValueError(f"--change {name}={text}: not a value of {name} ({kind})")
    return tuple(value) if listed else value


def _real(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(kind: Any) -> tuple[Any, bool]:
    """A tuple's kind as that of a list, which is what JSON and :func:`fits` know."""
    if typing.get_origin(kind) is tuple:
        return list[typing.get_args(kind)[0]], True
    if isinstance(kind, type | types.UnionType):
        return kind, False
    return Any, False


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
