r"""Other repositories' conventions: a foreign network as a field of this package, and back.

Here :math:`t = 0` is data, :math:`v = \epsilon - x`, and a field is called ``u(z, r, t, y)``. Each
row of ``CONVENTIONS`` is a pair of adapters that undo each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.domains import INSTANT, trained
from meanflow_lite.fields import Field

#: A network under another convention: a state, one or two times, labels.
Foreign = Callable[..., Any]


@dataclass(frozen=True)
class Convention:
    """One foreign convention.

    ``call`` is how its network is called and ``meaning`` what it returns, in the notation of this
    package; ``repositories`` use it. ``read`` and ``write`` are one foreign call in terms of a
    field and the reverse. ``jumps`` is False where the network is not told r.
    """

    name: str
    repositories: str
    call: str
    meaning: str
    read: Callable[..., Tensor]
    write: Callable[..., Any]
    jumps: bool = True

    def to_field(self, net: Foreign) -> Translated:
        """The foreign network as a field ``u(z, r, t, y=None)``, which can be trained."""
        return Translated(self, net)

    def from_field(self, u: Field) -> Foreign:
        """A field as a foreign network."""
        return partial(self.write, u)


class Translated(nn.Module):
    """A foreign network as a field, and a module: it can be trained, averaged and stored.

    ``net`` is the foreign network, with the weights under their own names. Where it is not told r
    (``knows_r``), the domain is r = t alone.
    """

    def __init__(self, convention: Convention, net: Foreign) -> None:
        super().__init__()
        self.convention, self.net, self.knows_r = convention, net, convention.jumps
        if not self.knows_r:
            trained(self, INSTANT)

    @property
    def wrapped(self) -> Foreign:
        """The foreign network."""
        return self.net

    def forward(
        self,
        z: Float[Tensor, " b *d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b *d"]:
        """Evaluate; ``cond`` goes to the adapter."""
        return self.convention.read(self.net, z, r, t, y, **cond)


TIMESTEPS = 1000.0


def _labelled(net: Foreign, *states: Tensor, y: Tensor | None, **cond: Tensor) -> Tensor:
    """The foreign call; a network without labels is not given any."""
    return net(*states, **cond) if y is None else net(*states, y, **cond)


def _read_guided(
    net: Foreign, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
) -> Tensor:
    one = torch.ones_like(t)
    told = {"omega": one, "t_min": 0 * one, "t_max": one, **cond}
    return net(z, t, t - r, told["omega"], told["t_min"], told["t_max"], y)[0]


def _write_guided(
    u: Field,
    z: Tensor,
    t: Tensor,
    h: Tensor,
    omega: Tensor,
    t_min: Tensor,
    t_max: Tensor,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    told = {"omega": omega, "t_min": t_min, "t_max": t_max}
    return u(z, t - h, t, y, **told), u(z, t, t, y, **told)


CONVENTIONS: dict[str, Convention] = {
    row.name: row
    for row in (
        Convention(
            "start and length",
            "Gsunshine/meanflow, py-meanflow",
            "net(z, t, h, y), h = t - r",
            "u(z, r, t)",
            lambda net, z, r, t, y=None, **c: _labelled(net, z, t, t - r, y=y, **c),
            lambda u, z, t, h, y=None, **c: u(z, t - h, t, y, **c),
        ),
        Convention(
            "start and length, with the conditions of guidance",
            "Lyy-iiis/imeanflow",
            "net(z, t, h, omega, t_min, t_max, y), h = t - r",
            "the pair u(z, r, t), v(z, t), guided by omega for t in [t_min, t_max]",
            _read_guided,
            _write_guided,
        ),
        Convention(
            "start, then end",
            "haidog-yaqub/MeanFlow (which multiplies times by 1000 inside its network)",
            "net(x, t, r, y)",
            "u(x, r, t)",
            lambda net, z, r, t, y=None, **c: _labelled(net, z, t, r, y=y, **c),
            lambda u, z, t, r, y=None, **c: u(z, r, t, y, **c),
        ),
        Convention(
            "start, then end, in thousandths",
            "networks whose time embedding expects 0 to 1000",
            "net(x, 1000 t, 1000 r, y)",
            "u(x, r, t)",
            lambda net, z, r, t, y=None, **c: _labelled(
                net, z, TIMESTEPS * t, TIMESTEPS * r, y=y, **c
            ),
            lambda u, z, t, r, y=None, **c: u(z, r / TIMESTEPS, t / TIMESTEPS, y, **c),
        ),
        Convention(
            "data at one",
            "SiT, facebookresearch/flow_matching, TorchCFM",
            "net(x, s, y), s = 1 - t",
            "x - eps, minus the velocity v(z, t); it knows no r",
            lambda net, z, r, t, y=None, **c: -_labelled(net, z, 1 - t, y=y, **c),
            lambda u, x, s, y=None, **c: -u(x, 1 - s, 1 - s, y, **c),
            jumps=False,
        ),
        Convention(
            "data at one, with a length",
            "kvfrans/shortcut-models",
            "net(x, s, d, y), s = 1 - t, d = t - r",
            "-u(x, r, t): the velocity of a jump forwards from s to s + d",
            lambda net, z, r, t, y=None, **c: -_labelled(net, z, 1 - t, t - r, y=y, **c),
            lambda u, x, s, d, y=None, **c: -u(x, 1 - s - d, 1 - s, y, **c),
        ),
        Convention(
            "noise level as a timestep",
            "diffusers with FlowMatchEulerDiscreteScheduler",
            "net(z, 1000 t, y)",
            "eps - x, the velocity v(z, t); it knows no r",
            lambda net, z, r, t, y=None, **c: _labelled(net, z, TIMESTEPS * t, y=y, **c),
            lambda u, z, step, y=None, **c: u(z, step / TIMESTEPS, step / TIMESTEPS, y, **c),
            jumps=False,
        ),
    )
}


def p_equal_from_share_of_jumps(ratio: float) -> float:
    """``p_equal`` from the share of rows with r *unlike* t, as several ports spell it.

    Gsunshine/meanflow's ``data_proportion = 0.75`` is ``p_equal`` itself; the paper's "25% of
    r unlike t" is a ratio of 0.25, and both mean ``p_equal = 0.75``.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"a share of rows is in [0, 1]: got {ratio}")
    return 1 - ratio


@dataclass(frozen=True)
class Share:
    """One repository's number for the share of rows with r = t, or for that of the others.

    ``name`` is its name in that code, ``value`` its default or published value, ``counts_equal``
    whether it counts the rows with r = t.
    """

    repository: str
    name: str
    value: float
    counts_equal: bool

    @property
    def p_equal(self) -> float:
        """The same share as this package's ``p_equal``."""
        return self.value if self.counts_equal else p_equal_from_share_of_jumps(self.value)


#: Spellings of one number: the same 0.75 means either kind of row.
SHARES = (
    Share("Mean Flows, ablation of the paper", "ratio of r unlike t", 0.25, False),
    Share("Gsunshine/meanflow", "data_proportion", 0.75, True),
    Share("Gsunshine/py-meanflow", "ratio", 0.75, False),
    Share("zhuyu-cs/MeanFlow", "ratio_r_not_equal_t", 0.75, False),
    Share("forks of haidog-yaqub/MeanFlow", "flow_ratio", 0.5, True),
    Share("lucidrains/rectified-flow-pytorch", "prob_default_flow_obj", 0.5, True),
)
