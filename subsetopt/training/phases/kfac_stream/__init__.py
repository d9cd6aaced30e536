"""`kfac-stream`: EKFAC steps on fresh mini-batches.

## What it does
Each step runs EKFAC on the next mini-batch of a shuffled epoch: the gradient is divided by Kronecker factors of the
Gauss-Newton matrix, estimated on samples of their own. Signal and noise of the gradient are measured between halves of
mini-batches; noisier gradients get larger mini-batches, shorter steps, less momentum and more damping. The first eight
steps are tried on a few samples before they are taken. The rate falls with the share of the cost that is spent, so that
the method ends with its budget. A guard goes back to the last good point when the loss jumps. Where rows are few,
labels noisy or a class is rare, Adam and SGD were ahead.

## Settings
- `subset_min` ("auto"), `subset_max` ("auto"): samples of the first and last mini-batch; given, mini-batches grow from
  the one (or 128) to the other (or 1000), and `pass_steps` (32) bounds them for small training sets.
- `trust` ("auto"): change of the outputs in a step, a fifth of the loss at most; 0.07 in earlier versions.
- `momentum` ("auto"): 0.5 at most.
- `rate` (0.18): a comparison tunes it.
- `directions` (1.8): directions kept per sample, which sets the damping unless noise asks for more.
- `factor_share` (0.15), `factor_samples` (128), `memory` (0.8), `draw` ("curvature"): cost, size, memory and targets of
  the estimates of the factors.

## True cost
What `--solver-epochs` gives it, 3 epoch-equivalents by default. Factors are included, and the product with them of
each step, two where noise is measured (for 5 % of the cost). Where a product costs more than 32 samples, factors keep
16 eigenvectors.

## Source
George et al. 2018, arXiv 1806.03884 (EKFAC); Martens and Grosse 2015, arXiv 1503.05671 (K-FAC); McCandlish et al.
2018, arXiv 1812.06162 (critical size). The rules are ours: `reports/strategies/kfac-stream.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.facts import Knob, PlannedStrategy
from subsetopt.training.phases.methods import METHODS, Strategy

if TYPE_CHECKING:
    from subsetopt.training.budget import Budget
    from subsetopt.training.context import RunContext
    from subsetopt.training.phases.protocol import Phase
    from subsetopt.training.settings.phase import PhaseConfig
    from subsetopt.training.training_data import TrainingData

_FEWEST = 200  # samples: of fewer, factors and their decompositions cost more than evaluations (plan-laws.md, wine)
_THEN_LBFGS = "--solver kfac-stream --solver-epochs 2 --handoff full --handoff-arg preconditioner=kfac"


@METHODS.register(
    "kfac-stream",
    "a stream of fresh, growing subsets of the full set, one K-FAC step on each",
    knob=Knob("rate", 0.18),
    plan=(
        PlannedStrategy(
            "kfac-stream", "stream", "--solver kfac-stream --handoff none", ("--solver-epochs",), fewest=_FEWEST
        ),
        PlannedStrategy(
            "kfac-stream+lbfgs",
            "full batch",
            _THEN_LBFGS,
            ("--handoff-epochs", "--max-epochs"),
            stream_units=2.0,
            stream="kfac-stream",
            fewest=_FEWEST,
        ),
    ),
)
class KfacStream(Strategy):
    """EKFAC on a stream of mini-batches."""

    kind = "stream"
    epochs = 3.0
    makes_products = False

    @classmethod
    def phase(cls, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int) -> Phase:
        """Return a `StreamPhase`."""
        from subsetopt.training.phases.kfac_stream.phase import StreamPhase

        return StreamPhase(config, data, budget, run, index)

    @classmethod
    def settings(cls) -> type[Any]:
        """Return `StreamSettings`."""
        from subsetopt.training.phases.kfac_stream.settings import StreamSettings

        return StreamSettings
