"""Batch sizes that fit into memory, and smaller batches when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BATCH = 8
"""Batch size of a network exported to ONNX. Its graph is specialised for this size, so that every
shape in it is constant; smaller batches are padded."""

_CHUNK_PIXELS_CPU = 16 * 224 * 224
"""Number of pixels per forward pass, which bounds its memory."""
_CHUNK_PIXELS_ACCELERATOR = 64 * 224 * 224


def images_at_once(height: int, width: int, device: torch.device) -> int:
    """Number of images of this size per batch: 16 at 224×224 on a CPU, 64 elsewhere."""
    pixels = _CHUNK_PIXELS_CPU if device.type == "cpu" else _CHUNK_PIXELS_ACCELERATOR
    count = pixels // (height * width)
    # A multiple of the exported network's batch size.
    return max(1, count - count % BATCH if count > BATCH else count)


def chunked(items: Tensor, size: int, call: Callable[[Tensor], T]) -> Iterator[T]:
    """Yield the results of `call` on at most `size` items at a time.

    When memory runs out, the size is halved and the call repeated.

    Raises:
        RuntimeError, MemoryError: `call` failed for another reason, or on a single item.
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
    """Whether the error means that memory ran out.

    PyTorch has an exception class for it on CUDA only; elsewhere the message has to tell.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return any(text in str(error) for text in texts)
