"""Networks that are fields: the MLP for the toys and the DiT for images."""

from meanflow_lite.networks.mlp import MLP

__all__ = ["MLP"]
