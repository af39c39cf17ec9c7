"""Where was a class seen? One file a method."""

from relook.attribution.cam import CAM
from relook.attribution.protocol import Attribution, AttributionMaps, Progress
from relook.attribution.score_cam import FAST, VARIANTS, ScoreCAM

__all__ = ["CAM", "FAST", "VARIANTS", "Attribution", "AttributionMaps", "Progress", "ScoreCAM"]
