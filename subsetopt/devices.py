"""Copies to a device that do not make the host wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def moved(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return `tensor` on `device`, converted to `dtype` where that is given.

    A copy from the host to a GPU is queued like any kernel, where a plain `.to(device)` waits until all work queued
    before it is done. That is safe from pageable memory too: CUDA takes it into a buffer of its own before it returns.
    Copies to the host are not safe that way, and wait.
    """
    return tensor.to(device, tensor.dtype if dtype is None else dtype, non_blocking=str(device).startswith("cuda"))
