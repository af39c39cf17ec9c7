"""Batch sizes that fit into memory, and smaller batches when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BATCH = 8
"""Largest batch size of a network exported to ONNX."""

_BATCH_PIXELS = 2 * 224 * 224
"""Number of pixels per batch of such a network. With more, a thread's maps leave its cache; with
fewer, its weights are read too often, and small inputs cost more to hand over than to compute."""

_CHUNK_PIXELS_CPU = 16 * 224 * 224
"""Number of pixels per forward pass, which bounds its memory."""
_CHUNK_PIXELS_ACCELERATOR = 64 * 224 * 224


def images_at_once(height: int, width: int, device: torch.device) -> int:
    """Number of images of this size per batch: 16 at 224×224 on a CPU, 64 elsewhere.

    On a CPU with many cores, there are enough for every thread of an exported network.
    """
    on_cpu = device.type == "cpu"
    count = (_CHUNK_PIXELS_CPU if on_cpu else _CHUNK_PIXELS_ACCELERATOR) // (height * width)
    if on_cpu:
        count = max(count, torch.get_num_threads() * exported_batch(height, width))
    # A multiple of the exported network's batch size.
    return max(1, count - count % BATCH if count > BATCH else count)


def exported_batch(height: int, width: int) -> int:
    """Batch size of a network exported to ONNX, a power of two: 2 at 224×224, 8 for small images.

    The graph is specialised for this size, so that every shape in it is constant; smaller batches
    are padded.
    """
    count = min(BATCH, max(1, _BATCH_PIXELS // (height * width)))
    return 1 << (count.bit_length() - 1)


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
