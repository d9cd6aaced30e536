"""Counts of floating-point operations that leave the model and its autograd graph alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


class FlopCounter(FlopCounterMode):
    """torch's FlopCounterMode without its counts by module.

    For those it puts hooks on every module and on the tensors that modules are called with. The hooks fail inside
    `autograd.grad` where a module is called on a parameter (`nn.utils.parametrizations`, learned tokens), and where a
    forward pass itself differentiates (forces). Totals need none of them.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _NoModules()


class _NoModules:
    """Says that everything happens at the top."""

    parents: Iterable[str] = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def count_flops(call: Callable[[], object]) -> int:
    """Return the floating-point operations that torch can count in `call()`."""
    with FlopCounter() as counter:
        call()
    return int(counter.get_total_flops())
