"""A method's own arithmetic, noted where it is done and charged by whoever runs the method.

Solvers and preconditioners multiply vectors in many places that know of no ledger. Each of these says by `note_flops`
what it does, by the formulas of `flops.py`; a phase opens a `tallied` block around a step and charges the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Tally:
    """Floating-point operations noted so far; `host` are those of numpy and scipy, which torch cannot see.

    `possible` are those that the next step may take beyond what steps have taken.
    """

    flops: int = 0
    host: int = 0
    possible: int = 0


_OPEN: ContextVar[tuple[Tally, ...]] = ContextVar("open tallies", default=())


def note_flops(flops: int, *, host: bool = False) -> None:
    """Add to the open tallies of this thread; where none is, nothing happens."""
    for tally in _OPEN.get():
        tally.flops += flops
        if host:
            tally.host += flops


def note_possible(flops: int) -> None:
    """Say that the next step may take so many operations more than any before it, so that a budget has room."""
    for tally in _OPEN.get():
        tally.possible = flops


@contextmanager
def tallied() -> Iterator[Tally]:
    """Open a tally for the enclosed work, within those that are open."""
    tally = Tally()
    token = _OPEN.set((*_OPEN.get(), tally))
    try:
        yield tally
    finally:
        _OPEN.reset(token)
