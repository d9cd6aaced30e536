"""What this project's own measurements say against a prediction: what is not recommended, and where laws do not reach.

Each sentence names the page that has the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from subsetopt.plan.laws import TINY, Law
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

STREAM = "kfac-stream"
BEHIND = (
    "on few rows or rare classes it was behind Adam or SGD in test loss in seven of eight held-out cells, by 6 to 51 % "
    "(reports/held-out/stream.md)"
)
FEW_ROWS = 5000  # the cells of that page have 1300 to 6000; from 7400 on the stream was ahead, or behind by 4 %
RARE = 0.1  # of a class's even share: 5 % of the rows where there are two classes
BEYOND = 2.0  # times the largest measured size, or below the smallest by as much
OTHER_STRENGTH = 3.0  # times the nearest measured L2 strength


def unsuited(data: TrainingData) -> dict[str, str]:
    """Return the strategies that were behind on data of this kind, with where that was measured."""
    rows, why = data.full_size, None
    if rows < FEW_ROWS:
        why = f"there are {rows} rows"
    elif data.dataset.task == "classification":
        labels = data.trained(SplitName.TRAIN)[1].reshape(-1)
        share = float(torch.bincount(labels, minlength=data.dataset.n_outputs).min()) / labels.numel()
        if share <= RARE / data.dataset.n_outputs:
            why = f"the rarest class has {100 * share:.2g} % of the rows"
    return {} if why is None else {STREAM: f"{why}, and {BEHIND}"}


def limits_of(laws: Sequence[Law], strategy: str, samples: int, l2: float) -> list[str]:
    """Return in which way this problem lies outside of what the laws of `strategy` were measured on."""
    own = [law for law in laws if law.strategy == strategy]
    if not own:
        return []
    notes, sizes = [], sorted({law.samples for law in own})
    if not sizes[0] / BEYOND <= samples <= sizes[-1] * BEYOND:
        seen = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        notes.append(f"{strategy} was measured on {seen} samples, here are {samples}: the prediction may miss")
    nearest = min((law.l2 for law in own), key=lambda strength: abs(math.log(max(l2, TINY) / strength)))
    if not nearest / OTHER_STRENGTH <= l2 <= nearest * OTHER_STRENGTH:
        notes.append(f"the nearest L2 strength at which {strategy} was measured is {nearest:g}, here it is {l2:g}")
    return notes
