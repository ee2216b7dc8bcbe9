"""Published checkpoints to run folders, and back out: Orbax, msgpack, safetensors, torch, the Hub.

Nothing that is read here is executed: arrays and names are taken, anything else is refused.
"""

from meanflow_lite.weights.reading import WeightsError

__all__ = ["WeightsError"]
