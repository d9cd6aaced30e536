"""Calls of `torch.autograd.Function`, typed."""

from __future__ import annotations

from typing import Any

import torch


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Return what an autograd function gives; torch says nothing of its type."""
    return function.apply(*args)


def applied_plainly(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Return the same where all tensors are plain ones, out of sight of the mode that records: it has nothing to do
    with what a backward pass is made of, and costs as much as a small operator."""
    with torch._C.DisableTorchFunction():
        return function.apply(*args)
