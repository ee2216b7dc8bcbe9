"""The jumps ``(r, t)`` that a field was trained for, and how a field says so.

A network that was never asked for a jump still returns a number for it. So what an objective
trains is attached to its network, every wrapper hands it on, and every walk asks for each of its
jumps, the instants r = t of a solver included. Plain callables know no limits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from meanflow_lite.paths import PairLaw, TimeLaw

T = TypeVar("T")

NAMES = ("instant", "to_data", "any", "one_jump", "dyadic")


@dataclass(frozen=True)
class Domain:
    """The jumps ``(r, t)`` that an objective trains; every walk asks it.

    ``name`` is one of ``instant`` (r = t alone), ``to_data`` (r = 0), ``one_jump`` (from 1 to 0),
    ``dyadic`` (widths 2**-k, k = 0 ... ``levels``, between their own multiples) and ``any``.
    ``equal`` says whether r = t is trained besides: always so for ``instant`` and ``any``.

    Raises:
        ValueError: if the name is unknown.
    """

    name: str
    levels: int = 0
    equal: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"a domain is one of {', '.join(NAMES)}: got {self.name!r}")
        if self.name in ("instant", "any"):
            object.__setattr__(self, "equal", True)

    def check(self, times: Sequence[float | int]) -> None:
        """Raise ``ValueError`` if a walk along ``times`` makes a jump that was not trained."""
        for t, r in zip(times, times[1:], strict=False):
            self.check_jump(r, t)

    def check_jump(self, r: float, t: float) -> None:
        """Raise ``ValueError`` if the jump from t to r (or the instant r = t) was not trained."""
        if r == t:
            if not self.equal:
                raise ValueError(
                    f"this field was not trained at r = t (here {t:g}), so it has no velocity to "
                    "integrate: walk it by its jumps with sample() or jump_and_renoise()"
                )
        elif reason := self._refuses(float(r), float(t)):
            raise ValueError(f"this field was not trained for the jump {t} -> {r}: {reason}")

    def _refuses(self, r: float, t: float) -> str:
        if self.name == "instant":
            return (
                "it knows only r = t; walk it with integrate(), wrap it in instantaneous(), or, if "
                "a guided mix of averages is meant, say ClassifierFree(..., average=True)"
            )
        if self.name == "to_data" and r != 0:
            return "it only jumps to r = 0; use jump_and_renoise() for several steps"
        if self.name == "one_jump" and (r, t) != (0.0, 1.0):
            return "it only jumps from t = 1 to r = 0; use times = [1, 0]"
        if self.name == "dyadic":
            n = 2**self.levels
            width = (t - r) * n
            power = any(abs(width - 2**k) < 1e-6 * n for k in range(self.levels + 1))
            if not power or abs(t / (t - r) - round(t / (t - r))) > 1e-6:
                return f"it knows jumps of 1/{n}, 2/{n}, 4/{n}, ..., 1 between their own multiples"
        return ""


INSTANT = Domain("instant")
TO_DATA = Domain("to_data")
ANY = Domain("any")
ONE_JUMP = Domain("one_jump")


def dyadic(levels: int) -> Domain:
    """Jumps of width 2**-k, k = 0 ... levels, between multiples of their own width."""
    return Domain("dyadic", levels)


def drawn_by(pair: PairLaw, p_equal: float) -> Domain:
    """What a law of (r, t) trains when a share ``p_equal`` of the rows has r = t.

    The law itself is asked, by 256 draws: whether r is ever above 0, and ever below t. So a law
    of a reader's own has its domain too. Where jumps of every length are drawn, r = t is their
    limit and belongs to them.
    """
    generator = torch.Generator().manual_seed(0)
    streams: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def time(law: TimeLaw, stream: str | None = None) -> torch.Tensor:
        options = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        name = f"{len(streams)} without a name" if stream is None else stream
        if name not in streams:
            streams[name] = torch.randn(256, **options), torch.rand(256, **options)  # pyright: ignore
        return law(*streams[name])

    r, t = pair(time)
    if p_equal == 1 or bool((r == t).all()):
        return INSTANT
    if bool((r > 0).any()):
        return ANY
    return Domain("one_jump" if bool((t == 1).all()) else "to_data", equal=p_equal > 0)


def trained(net: T, domain: Domain) -> T:
    """Attach the domain that ``net`` was trained on; samplers read it. Returns ``net``."""
    net.domain = domain  # type: ignore[attr-defined]
    return net


def layers(u: object) -> Iterator[Any]:
    """A field and what it wraps, outermost first.

    Looked through are this package's wrappers (by their ``wrapped``), ``functools.partial``,
    bound methods, ``torch.compile``, and modules that keep another as ``module``, as
    ``DistributedDataParallel``, ``DataParallel`` and ``AveragedModel`` do.
    """
    while u is not None:
        yield u
        u = _inside(u)


def _inside(u: Any) -> Any:
    if isinstance(u, functools.partial):
        return u.func
    if isinstance(u, nn.Module):
        inner = _contained(u)
        return getattr(u, "wrapped", None) if inner is None else inner
    return getattr(u, "wrapped", None) or getattr(u, "__self__", None)


def _contained(net: nn.Module) -> nn.Module | None:
    inner = net._modules.get("_orig_mod")
    return net._modules.get("module") if inner is None else inner


def bare(net: nn.Module) -> nn.Module:
    """A module without what ``torch.compile`` and the parallel wrappers put around it."""
    while (inner := _contained(net)) is not None:
        net = inner
    return net


def domain_of(u: object) -> Domain:
    """The domain attached to a field or to what it wraps (see :func:`layers`), else any."""
    for layer in layers(u):
        domain = getattr(layer, "domain", None)
        if isinstance(domain, Domain):
            return domain
    return ANY


def classes_of(u: object) -> int | None:
    """The number of classes of the network in a field (its null label), if it says so."""
    for layer in layers(u):
        for owner in (layer, getattr(layer, "config", None)):
            classes = getattr(owner, "num_classes", None)
            if isinstance(classes, int):
                return classes
    return None
