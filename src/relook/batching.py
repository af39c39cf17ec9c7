"""How many images go through a network at once, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BATCH = 8
"""How many images go through a network exported to ONNX at once. Its graph is specialised for this
number, so that every shape in it is constant; smaller batches are padded."""

_CHUNK_PIXELS_CPU = 16 * 224 * 224
"""How many pixels go through the network at once, which bounds the memory of a forward pass."""
_CHUNK_PIXELS_ACCELERATOR = 64 * 224 * 224


def images_at_once(height: int, width: int, device: torch.device) -> int:
    """How many images of this size fit into one chunk: 16 at 224×224 on a CPU, 64 elsewhere."""
    pixels = _CHUNK_PIXELS_CPU if device.type == "cpu" else _CHUNK_PIXELS_ACCELERATOR
    count = pixels // (height * width)
    # Whole batches of the exported network.
    return max(1, count - count % BATCH if count > BATCH else count)


def chunked(items: Tensor, size: int, call: Callable[[Tensor], T]) -> Iterator[T]:
    """Results of `call` on at most `size` items at a time; when memory runs out, on half as many.

    Raises:
        RuntimeError, MemoryError: whatever `call` raises for another reason, or for a single item.
    """
    done = 0
    while done < len(items):
        chunk = items[done : done + size]
        try:
            result = call(chunk)
        except (RuntimeError, MemoryError) as error:
            if len(chunk) == 1 or not is_out_of_memory(error):
                raise
            size = len(chunk) // 2
            continue
        done += len(chunk)
        yield result


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. PyTorch has a class for that on CUDA, and elsewhere only a text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return any(text in str(error) for text in texts)
