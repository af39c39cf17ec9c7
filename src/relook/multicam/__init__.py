"""MultiCAM: a second network trained on what the first one looked at, and their fusion."""

from relook.multicam.data import (
    OnImages,
    TrainingData,
    TrainingImage,
    is_divided,
    read_training_data,
)
from relook.multicam.network import CamNet, MultiCAM, ObjectNet, mask_filter, saliency
from relook.multicam.run import KIND, STAGES, Networks, StageRecord, Training, restore, train
from relook.multicam.training import Epoch, OnProgress, Plan, Progress

__all__ = [
    "KIND",
    "STAGES",
    "CamNet",
    "Epoch",
    "MultiCAM",
    "Networks",
    "ObjectNet",
    "OnImages",
    "OnProgress",
    "Plan",
    "Progress",
    "StageRecord",
    "Training",
    "TrainingData",
    "TrainingImage",
    "is_divided",
    "mask_filter",
    "read_training_data",
    "restore",
    "saliency",
    "train",
]
