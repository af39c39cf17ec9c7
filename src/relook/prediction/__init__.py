"""Prediction: the answers for many images without labels, as rows of a table."""

from relook.prediction.images import FoundImages, find_images
from relook.prediction.predict import Predictions, predict

__all__ = ["FoundImages", "Predictions", "find_images", "predict"]
