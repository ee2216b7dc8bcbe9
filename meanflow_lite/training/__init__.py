"""Training: the loop, moving averages, checkpoints, several processes."""

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

__all__ = ["Diverged", "Ema", "LossModule", "Record", "TrainConfig", "Trainer", "curve", "train"]
