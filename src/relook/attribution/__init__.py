"""Attribution: where in an image the network sees a class. One file per method."""

from relook.attribution.activity import Activity
from relook.attribution.cam import CAM
from relook.attribution.context import Context, Progress
from relook.attribution.grad_cam import GradCAM
from relook.attribution.protocol import Attribution, AttributionMaps, Note
from relook.attribution.score_cam import FAST, VARIANTS, ScoreCAM
from relook.attribution.seen import Seen, attribute

__all__ = [
    "CAM",
    "FAST",
    "VARIANTS",
    "Activity",
    "Attribution",
    "AttributionMaps",
    "Context",
    "GradCAM",
    "Note",
    "Progress",
    "ScoreCAM",
    "Seen",
    "attribute",
]
