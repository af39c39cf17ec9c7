"""Second looks: one file for each kind of view, and the presets that combine them."""

from relook.looks.crops import Crops
from relook.looks.ends import Ends
from relook.looks.flip import Flip
from relook.looks.frame import Frame
from relook.looks.in_turn import InTurn
from relook.looks.larger import Larger
from relook.looks.learnt import Judgement, Learnt, Part
from relook.looks.mask import Mask
from relook.looks.mirrored import Mirrored
from relook.looks.network import Network, networks
from relook.looks.presets import LOOKS, Preset, make_look
from relook.looks.protocol import Look, SecondLook, Views, detail, keeps_maps, needs_layer
from relook.looks.symmetries import Symmetries
from relook.looks.together import Together
from relook.looks.uncropped import Uncropped
from relook.looks.weighted import Weighted
from relook.looks.whole import Whole
from relook.looks.zoom import Zoom

__all__ = [
    "LOOKS",
    "Crops",
    "Ends",
    "Flip",
    "Frame",
    "InTurn",
    "Judgement",
    "Larger",
    "Learnt",
    "Look",
    "Mask",
    "Mirrored",
    "Network",
    "Part",
    "Preset",
    "SecondLook",
    "Symmetries",
    "Together",
    "Uncropped",
    "Views",
    "Weighted",
    "Whole",
    "Zoom",
    "detail",
    "keeps_maps",
    "make_look",
    "needs_layer",
    "networks",
]
