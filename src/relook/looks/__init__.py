"""What to look at again: one file a view, and the presets made of them."""

from relook.looks.flip import Flip
from relook.looks.mask import Mask
from relook.looks.presets import LOOKS, make_look
from relook.looks.protocol import Look, SecondLook, Views

__all__ = ["LOOKS", "Flip", "Look", "Mask", "SecondLook", "Views", "make_look"]
