"""The arithmetic an objective runs under, whatever the caller has switched on around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

_IEEE = "ieee"


@contextmanager
def exact_arithmetic(device: torch.device, allow_tf32: bool = False) -> Iterator[None]:
    """Run with gradients recorded, no autocast and (unless `allow_tf32`) full float32 products; then restore.

    TF32 keeps 10 bits of mantissa: a line search on such a loss stalls at a gradient of about 1e-3.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if not allow_tf32:
            stack.enter_context(_ieee_float32())
        yield


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on a device that has no float64 (Apple's)."""
    return torch.float32 if device.type == "mps" else torch.float64


def plain(tensor: Tensor) -> Tensor:
    """Return `tensor` as ordinary data: no gradient history, and usable in autograd even if made in inference mode."""
    if tensor.is_inference():
        with torch.inference_mode(False):
            return tensor.clone()
    return tensor.detach()


@contextmanager
def _ieee_float32() -> Iterator[None]:
    switches = [(owner, name, getattr(owner, name)) for owner, name in _float32_switches()]
    changed = [switch for switch in switches if switch[2] not in (_IEEE, False)]
    for owner, name, value in changed:
        setattr(owner, name, False if isinstance(value, bool) else _IEEE)
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def _float32_switches() -> list[tuple[Any, str]]:
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):  # torch >= 2.9; reading its old switches beside these raises
        owners = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, *_mkldnn_owners())
        return [(owner, "fp32_precision") for owner in owners]
    return [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]


def _mkldnn_owners() -> list[Any]:
    mkldnn: Any = torch.backends.mkldnn
    return [getattr(mkldnn, name) for name in ("matmul", "conv", "rnn") if hasattr(mkldnn, name)]
