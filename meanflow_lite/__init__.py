"""MeanFlow one-step generation: average velocities, JVP targets and samplers, tested exactly."""

__version__ = "0.1.0"
