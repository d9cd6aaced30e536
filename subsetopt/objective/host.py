"""The one place where solvers, and estimates of curvature, wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

_observers: list[Callable[[], None]] = []


def host_read(scalars: Tensor) -> list[float]:
    """Copy a small float64 tensor of shape (n,) to the host: one synchronisation."""
    note_read()
    values: list[float] = scalars.tolist()
    return values


def note_read() -> None:
    """Tell those who count synchronisations of one; on a CPU, of numbers that were read without a copy."""
    for notify in _observers:
        notify()


@contextmanager
def observe_reads(notify: Callable[[], None]) -> Iterator[None]:
    """Call `notify` at every `host_read` inside the block; benchmarks and tests count synchronisations with it."""
    _observers.append(notify)
    try:
        yield
    finally:
        _observers.remove(notify)
