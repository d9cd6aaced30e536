"""Calls of `torch.autograd.Function`, typed."""

from __future__ import annotations

from typing import Any

import torch


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Return what an autograd function gives; torch says nothing of its type."""
    return function.apply(*args)
