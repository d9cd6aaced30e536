"""The objectives of a solve in rounds: on the samples that a round draws, and on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from subsetopt.objective import Objective
from subsetopt.objective.corrected import CorrectedObjective, KnownObjective
from subsetopt.objective.protocol import SmoothObjective
from subsetopt.training.context import RunContext
from subsetopt.training.phases.drawn.output_layer import OutputLayer, corrected_by
from subsetopt.training.phases.drawn.rounds import Draw, RoundState, drawn
from subsetopt.training.training_data import TrainingData


class RoundObjectives:
    """Makes the objectives of rounds; `layer` is the output layer that they solve for, None where they do not.

    `size` says how many samples a draw of a share has, `uniform` is the part of each chance that all samples share.
    """

    def __init__(
        self,
        full: Objective,
        data: TrainingData,
        run: RunContext,
        uniform: float,
        size: Callable[[float], int],
        layer: OutputLayer | None,
    ) -> None:
        self._full, self._data, self._run, self._uniform, self._size = full, data, run, uniform, size
        self.layer = layer
        self.at_hand: CorrectedObjective | None = None
        self._settled: CorrectedObjective | None = None

    def on_all(self) -> Objective | CorrectedObjective:
        """Return the objective that the solve on all samples is on."""
        if self.layer is None:
            return self._full
        if self._settled is None:
            nothing = torch.zeros(self._full.size, dtype=self._full.dtype, device=self._full.device)
            self._settled = corrected_by(self._full, nothing, nothing, -1, self.layer)
        return self._settled

    def of(self, state: RoundState) -> CorrectedObjective:
        """Return the objective of the round: the one at hand, or, after a restart, that of the same draw."""
        if self.at_hand is None or self.at_hand.number != state.number:
            self.at_hand = self._corrected(self._inner(state), state, state.noise)
        return self.at_hand

    def begun(self, origin: RoundState) -> tuple[SmoothObjective, Tensor]:
        """Return the objective of the round that begins at `origin`, known there, and its gradient's error (P,)."""
        inner = self._inner(origin)
        value, gradient = inner.value_and_gradient(origin.origin)
        noise = gradient - origin.gradient
        self.at_hand = self._corrected(inner, origin, noise)
        return known(self.at_hand, value, gradient + self.at_hand.slope), noise

    def _corrected(self, inner: Objective, state: RoundState, noise: Tensor) -> CorrectedObjective:
        return corrected_by(inner, -state.correction * noise, state.origin, state.number, self.layer)

    def _inner(self, state: RoundState) -> Objective:
        draw = self.draw(state)
        return self._run.model.drawn(self._data.with_subset(draw.rows), draw.factors)

    def draw(self, state: RoundState) -> Draw:
        """Return the rows of the state's round, and what each counts."""
        factors, seed = self._full.samples.factors, self._run.config.seed
        return drawn(state.scores, factors, self._size(state.share), self._uniform, seed, state.number)


def known(objective: Objective | CorrectedObjective, value: Tensor, gradient: Tensor) -> SmoothObjective:
    """Return `objective`, whose first evaluation, made already, gives `value` and `gradient`."""
    return cast(SmoothObjective, KnownObjective(objective, value, gradient))
