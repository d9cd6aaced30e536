"""A plain function as every contestant sees it: calls counted, time inside them measured, a limit kept."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsetopt.bench.timing import CLOCKS, Clock, synchronise
from subsetopt.objective.protocol import BudgetExhausted, Linearisation, Purpose, SmoothObjective


@dataclass
class EvaluationRecorder:
    """An objective that counts its calls and raises `BudgetExhausted` before call `limit` + 1, products included.

    `inside` is the time spent in loss and gradient, in seconds of `clock`. With `tracing`, each evaluation appends
    (seconds since the start, calls so far, loss); reading the loss synchronises with the device.
    """

    objective: SmoothObjective
    limit: float = math.inf
    tracing: bool = False
    clock: Clock = CLOCKS["wall"]
    evaluations: int = 0
    products: int = 0
    linearisations: int = 0
    inside: float = 0.0
    trace: list[tuple[float, int, float]] = field(default_factory=list)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def size(self) -> int:
        """P."""
        return self.objective.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of w."""
        return self.objective.dtype

    @property
    def device(self) -> torch.device:
        """The device of w."""
        return self.objective.device

    @property
    def identity(self) -> Hashable:
        """That of the objective behind."""
        return self.objective.identity

    def initial(self) -> Tensor:
        """Return the starting point."""
        return self.objective.initial()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return the loss, uncounted: no contestant asks for it alone."""
        return self.objective.value(w, purpose)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return loss and gradient, counted and timed."""
        self.spend()
        self.evaluations += 1
        synchronise(self.device)
        start = self.clock()
        loss, gradient = self.objective.value_and_gradient(w, purpose)
        synchronise(self.device)
        now = self.clock()
        self.inside += now - start
        if self.tracing:
            self.trace.append((now - self.started, self.evaluations + self.products, float(loss)))
        return loss, gradient

    def linearise(self, w: Tensor) -> RecordedProducts:
        """Return counted products at w."""
        self.linearisations += 1
        return RecordedProducts(self, self.objective.linearise(w))

    def spend(self) -> None:
        """Raise `BudgetExhausted` where the limit on calls is reached."""
        if self.evaluations + self.products >= self.limit:
            raise BudgetExhausted


@dataclass(frozen=True)
class RecordedProducts:
    """Curvature products, counted."""

    recorder: EvaluationRecorder
    behind: Linearisation

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v."""
        self._count()
        return self.behind.hvp(v)

    def ggnvp(self, v: Tensor) -> Tensor:
        """Return G v."""
        self._count()
        return self.behind.ggnvp(v)

    def _count(self) -> None:
        self.recorder.spend()
        self.recorder.products += 1
