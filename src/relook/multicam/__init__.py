"""MultiCAM: a second network trained on what the first one looked at, and their fusion."""

from relook.multicam.comparison import (
    Compared,
    Comparison,
    Trained,
    compare,
    masked,
    seen_in_training,
    unseen_images,
)
from relook.multicam.data import (
    OnImages,
    TrainingData,
    TrainingImage,
    is_divided,
    read_training_data,
)
from relook.multicam.door import load_run, load_stages, load_trained, train_multicam
from relook.multicam.network import CamNet, MultiCAM, ObjectNet, mask_filter, saliency
from relook.multicam.run import KIND, StageRecord, Training, train
from relook.multicam.stages import (
    FUSED,
    OBJECT,
    STAGE_NAMES,
    STAGES,
    TARGET,
    Networks,
    restore,
)
from relook.multicam.training import Epoch, OnProgress, Plan, Progress, Stage, fit

__all__ = [
    "FUSED",
    "KIND",
    "OBJECT",
    "STAGES",
    "STAGE_NAMES",
    "TARGET",
    "CamNet",
    "Compared",
    "Comparison",
    "Epoch",
    "MultiCAM",
    "Networks",
    "ObjectNet",
    "OnImages",
    "OnProgress",
    "Plan",
    "Progress",
    "Stage",
    "StageRecord",
    "Trained",
    "Training",
    "TrainingData",
    "TrainingImage",
    "compare",
    "fit",
    "is_divided",
    "load_run",
    "load_stages",
    "load_trained",
    "mask_filter",
    "masked",
    "read_training_data",
    "restore",
    "saliency",
    "seen_in_training",
    "train",
    "train_multicam",
    "unseen_images",
]
