"""MultiCAM: a second network trained on what the first one focuses on, and their fusion."""

from relook.multicam.comparison import (
    Compared,
    Comparison,
    Masked,
    Trained,
    compare,
    masked,
    seen_in_training,
    unseen_images,
)
from relook.multicam.door import load_run, load_stages, load_trained, train_multicam
from relook.multicam.network import MultiCAM, mask_filter, saliency
from relook.multicam.run import StageRecord, Training
from relook.multicam.stages import FUSED, OBJECT, STAGE_NAMES, STAGES, TARGET
from relook.multicam.training import Epoch, Progress

__all__ = [
    "FUSED",
    "OBJECT",
    "STAGES",
    "STAGE_NAMES",
    "TARGET",
    "Compared",
    "Comparison",
    "Epoch",
    "Masked",
    "MultiCAM",
    "Progress",
    "StageRecord",
    "Trained",
    "Training",
    "compare",
    "load_run",
    "load_stages",
    "load_trained",
    "mask_filter",
    "masked",
    "saliency",
    "seen_in_training",
    "train_multicam",
    "unseen_images",
]
