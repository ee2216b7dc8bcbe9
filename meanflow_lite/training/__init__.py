"""Training: the loop, moving averages, checkpoints, several processes."""

from meanflow_lite.training.checkpoint import (
    CheckpointError,
    Mismatch,
    checkpoints,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from meanflow_lite.training.ema import Ema
from meanflow_lite.training.loop import (
    Diverged,
    LossModule,
    Record,
    TrainConfig,
    Trainer,
    curve,
    train,
)

__all__ = [
    "CheckpointError",
    "Diverged",
    "Ema",
    "LossModule",
    "Mismatch",
    "Record",
    "TrainConfig",
    "Trainer",
    "checkpoints",
    "curve",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "train",
]
