"""Fields: the protocol, and exact instantaneous and average velocities to test against."""

from meanflow_lite.fields.base import (
    Conditioned,
    Field,
    Velocity,
    as_field,
    field_rows,
    instantaneous,
    resting,
    velocity_of,
)
from meanflow_lite.fields.gaussian import Gaussian
from meanflow_lite.fields.mixture import GaussianMixture, Guided
from meanflow_lite.fields.product import ProductMixture
from meanflow_lite.fields.solver import solve_average

__all__ = [
    "Conditioned",
    "Field",
    "Gaussian",
    "GaussianMixture",
    "Guided",
    "ProductMixture",
    "Velocity",
    "as_field",
    "field_rows",
    "instantaneous",
    "resting",
    "solve_average",
    "velocity_of",
]
