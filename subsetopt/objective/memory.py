"""How much memory a recorded graph holds on to, and the chunk size that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self, TypeVar

import torch
from torch import Tensor

from subsetopt.errors import ModelError

T = TypeVar("T")

UNMEASURED = 64.0
"""Activations of a sample, in sizes of its inputs, where they cannot be measured."""

CPU_CHUNK_BYTES = 10 * 2**20
"""Activations per chunk on a CPU. Gradients are within some 10 % of their best from 6 to 16 MiB. Smaller chunks pay for
calls and short loops; above some 20 MiB the allocator gives memory back between chunks (see `keep_freed_memory`)."""

DEVICE_CHUNK_BYTES = 1 * 2**30
"""Activations per chunk on an accelerator, which needs large kernels to be busy."""

GHOST_BATCH = 128
"""Chunk size with batch normalisation, where it is part of the function and must not depend on the machine."""

_SMALLEST, _LARGEST = 32, 8192

_LARGEST_MAPPED = 2**25 - 2**16
"""Bytes; just below the largest block whose release raises glibc's thresholds (DEFAULT_MMAP_THRESHOLD_MAX)."""


@dataclass
class MemoryLimits:
    """What was found to fit into this device's memory, where something did not; shared by objectives on one model.

    `chunk_size`: samples in a chunk, where that is ours to choose. `graph_bytes`: what graphs kept for curvature
    products may take.
    """

    chunk_size: int | None = None
    graph_bytes: int | None = None


class SavedBytes:
    """Context that adds up, in `total`, the bytes autograd saves within it; shared storage counts once.

    Storage shared with `exclude` (the parameters) is left out.
    """

    def __init__(self, exclude: Tensor) -> None:
        self.total = 0
        self._seen = {exclude.untyped_storage().data_ptr()}
        # Keeping every tensor alive keeps their addresses apart.
        self._alive: list[Tensor] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()

    def _pack(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._alive.append(tensor)
            # A slice of the data set counts for itself, an expanded tensor for what is behind it.
            self.total += min(storage.nbytes(), tensor.nbytes)
        return tensor


def with_saved_bytes(work: Callable[[], T], exclude: Tensor, guess: float) -> tuple[T, float]:
    """Return what `work` returns, and the bytes autograd saves in it; `guess` for a model that admits no hooks.

    Such are models that call `torch.func.grad` and the like, which refuse to run under hooks on saved tensors.
    """
    try:
        with SavedBytes(exclude) as saved:
            return work(), saved.total
    except (RuntimeError, ModelError) as error:
        if "saved tensor hooks" not in str(error):
            raise
    return work(), guess


@cache
def keep_freed_memory() -> None:
    """Make glibc keep up to 64 MiB that is freed, instead of giving it back to the system between two chunks.

    Memory given back comes again page by page, zeroed, which made curvature products up to twice as slow. glibc adapts
    (mallopt(3), "dynamic mmap threshold"): the release of a block that was mapped on its own raises the size from which
    blocks are, up to 32 MiB, and what is kept to twice that. One such block, never touched, takes it there at once
    rather than by what a process happened to free before. Thresholds set in the environment, and other allocators,
    are left as they are.
    """
    torch.empty(_LARGEST_MAPPED, dtype=torch.uint8, device="cpu")


def automatic_chunk_size(bytes_per_sample: float, device: torch.device, batch_dependent: bool) -> int:
    """Return a chunk size for a model that saves `bytes_per_sample` in its forward pass.

    The nearest power of two, so that it is the same over small differences in that measurement.
    """
    if batch_dependent:
        return GHOST_BATCH
    budget = CPU_CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
    size = min(max(budget / max(bytes_per_sample, 1.0), _SMALLEST), _LARGEST)
    return 1 << round(math.log2(size))
