"""The jumps ``(r, t)`` that a field was trained for, and how a field says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Domain:
    """The jumps ``(r, t)`` that an objective trains; a sampler asks :meth:`check`."""

    name: str
    levels: int = 0

    def check(self, times: Sequence[float | int]) -> None:
        """Raise ``ValueError`` if a walk along ``times`` makes a jump that was not trained."""
        for t, r in zip(times, times[1:], strict=False):
            reason = self._refuses(float(r), float(t))
            if reason:
                raise ValueError(f"this field was not trained for the jump {t} -> {r}: {reason}")

    def _refuses(self, r: float, t: float) -> str:
        if self.name == "instant":
            return "it knows only r = t; walk it with integrate(), or wrap it in instantaneous()"
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


def trained(net: T, domain: Domain) -> T:
    """Attach the domain that ``net`` was trained on; samplers read it. Returns ``net``."""
    net.domain = domain  # type: ignore[attr-defined]
    return net


def domain_of(u: object) -> Domain:
    """The domain attached to a field (looking through ``functools.partial``), else any."""
    inner = getattr(u, "func", u)
    return getattr(inner, "domain", ANY)
