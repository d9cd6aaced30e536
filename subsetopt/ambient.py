"""What the caller has switched on around us, and how it is kept out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch


@contextmanager
def ordinary_torch() -> Iterator[None]:
    """Run as in a process that has just imported torch, then restore.

    Gradients are recorded, inference mode and autocast are off, new tensors are float32 on the CPU unless they say
    otherwise: under the caller's `no_grad`, default dtype or default device a run would fail half-way, or be another.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_FLOAT32.held())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


class SharedSwitch:
    """A setting of the whole process that several threads want alike: the first one sets it, the last one restores it.

    `switch()` is a context manager that does both.
    """

    def __init__(self, switch: Callable[[], AbstractContextManager[None]]) -> None:
        self._switch, self._lock, self._stack = switch, threading.Lock(), ExitStack()
        self.holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it set inside."""
        with self._lock:
            if self.holders == 0:
                self._stack.enter_context(self._switch())
            self.holders += 1
        try:
            yield
        finally:
            with self._lock:
                self.holders -= 1
                if self.holders == 0:
                    self._stack.close()


@contextmanager
def _float32_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_FLOAT32 = SharedSwitch(_float32_by_default)
