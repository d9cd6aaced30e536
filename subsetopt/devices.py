"""Copies to a device that do not make the host wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.inputs import Parts

M = TypeVar("M", "Tensor", "Parts", "Tensor | Parts")


def moved(tensor: M, device: torch.device | str, dtype: torch.dtype | None = None) -> M:
    """Return a tensor, or inputs of several, on `device`; floating ones converted to `dtype` where that is given.

    A copy from the host to a GPU is queued like any kernel, where a plain `.to(device)` waits until all work queued
    before it is done. That is safe from pageable memory too: CUDA takes it into a buffer of its own before it returns.
    Copies to the host are not safe that way, and wait.
    """
    queued = str(device).startswith("cuda")
    if dtype is None:
        return tensor.to(device, non_blocking=queued)
    return tensor.to(device, dtype, non_blocking=queued)
