"""The arithmetic an objective runs under, whatever the caller has switched on around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from subsetopt.ambient import SharedSwitch

T = TypeVar("T")


@contextmanager
def exact_arithmetic(device: torch.device, allow_tf32: bool = False) -> Iterator[None]:
    """Run with gradients recorded, no autocast and (unless `allow_tf32`) full float32 products; then restore.

    TF32 keeps 10 bits of mantissa: a line search on such a loss stalls at a gradient of about 1e-3. On CUDA, cuDNN is
    held to algorithms that add up in one order: its default gradients of some convolutions (3 to 64 channels, H200)
    differ from call to call, and a resumed solve would end elsewhere.
    """
    if _is_exact(device, allow_tf32):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if not allow_tf32:
            stack.enter_context(_float32_switch(device.type).held())
        if device.type == "cuda":
            stack.enter_context(_ONE_ORDER.held())
        yield


def _is_exact(device: torch.device, allow_tf32: bool) -> bool:
    # The usual case, in which entering and leaving contexts would cost as much as the loss of a small model.
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled() or torch.is_autocast_enabled(device.type):
        return False
    if _float32_switch(device.type).holders or _ONE_ORDER.holders:
        return False  # a thread has set them, and would restore them under another that relied on it
    if device.type == "cuda" and not torch.backends.cudnn.deterministic:
        return False
    if allow_tf32:
        return True
    plainly = _read(torch.get_float32_matmul_precision) == "highest"
    return plainly and all(getattr(owner, name) in _EXACT for owner, name in _switches(device.type))


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
def _one_order() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def _ieee_float32(device_type: str) -> Iterator[None]:
    switches = [(owner, name, getattr(owner, name)) for owner, name in _switches(device_type)]
    changed = [(owner, name, value) for owner, name, value in switches if value not in _EXACT]
    matmul = _read(torch.get_float32_matmul_precision)
    # Left as it is, the old cuDNN switch would contradict the new ones, and torch.backends.cudnn.flags(), which models
    # use around recurrent layers, raises then.
    cudnn: Any = torch.backends.cudnn
    cudnn_tf32 = device_type != "cpu" and _read(lambda: cudnn.allow_tf32) is True
    # The old switches come first on the way in and on the way out: setting them overwrites the new ones.
    try:
        if matmul not in ("highest", None):
            torch.set_float32_matmul_precision("highest")
        if cudnn_tf32:
            cudnn.allow_tf32 = False
        for owner, name, value in changed:
            setattr(owner, name, False if isinstance(value, bool) else "ieee")
        yield
    finally:
        if matmul not in ("highest", None):
            torch.set_float32_matmul_precision(matmul)
        if cudnn_tf32:
            cudnn.allow_tf32 = True
        for owner, name, value in changed:
            setattr(owner, name, value)


def _read(switch: Callable[[], T]) -> T | None:
    """Return what an old switch says; None where the caller has set the new ones otherwise, which makes it raise."""
    try:
        return switch()
    except RuntimeError:
        return None


_EXACT = ("ieee", "none", False)
_ONE_ORDER = SharedSwitch(_one_order)


@cache
def _float32_switch(device_type: str) -> SharedSwitch:
    return SharedSwitch(lambda: _ieee_float32(device_type))


@cache
def _switches(device_type: str) -> list[tuple[Any, str]]:
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):  # before torch 2.9
        return [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]
    # Those of other devices stay as they are: cuDNN's default is TF32, and setting it takes longer than a small loss.
    families = (backends.mkldnn,) if device_type == "cpu" else (backends.cuda, backends.cudnn, backends.mkldnn)
    owners = (getattr(family, kind, None) for family in families for kind in ("matmul", "conv", "rnn"))
    return [(owner, "fp32_precision") for owner in owners if hasattr(owner, "fp32_precision")]
