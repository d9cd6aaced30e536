"""The minima of several subsets side by side: each on its own subset, on the full set and on held-out data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.protocol import Purpose
from subsetopt.training.run_model import RunModel, training_loss
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData


@dataclass
class SubsetMinimum:
    """What one solve ended with; `loss` in its record is the objective on its own subset, with the L2 term."""

    w: Tensor
    record: dict[str, Any]


def average(minima: Sequence[Tensor]) -> Tensor:
    """Return the mean of parameter vectors (P,), summed in float64 where the device has it."""
    wide = accumulation_dtype(minima[0].device)
    return torch.stack([w.to(wide) for w in minima]).mean(dim=0).to(minima[0].dtype)


def join_minima(
    data: TrainingData, model: RunModel, union: TrainingData, config: PhaseConfig, minima: Sequence[SubsetMinimum]
) -> tuple[Tensor, dict[str, Any]]:
    """Return the parameters to hand on, and the comparison for result.json.

    `union` has the samples of all subsets as its own. Objectives have their L2 term, held-out losses have not; both
    are in the units of the training. What choosing the best needs to know is charged to selection, everything else to
    evaluation.
    """
    criterion = selection_criterion(config, data)
    chosen_by = "objective_full" if criterion == "train" else "validation_loss"
    mean = average([minimum.w for minimum in minima])
    needed = criterion if config.subsets_then == "best" else None
    each = [{**minimum.record, **_losses(data, model, union, minimum.w, needed)} for minimum in minima]
    joined = _losses(data, model, union, mean, None)
    scores = [math.inf if math.isnan(entry[chosen_by]) else entry[chosen_by] for entry in each]
    best = min(range(len(each)), key=scores.__getitem__)
    record = {
        "count": config.subsets,
        "then": config.subsets_then,
        "selected_by": criterion,
        "minima": each,
        "average": joined,
        "best": best,
        "average_beats": [joined[chosen_by] < entry[chosen_by] for entry in each],
    }
    return (mean if config.subsets_then == "average" else minima[best].w), record


def selection_criterion(config: PhaseConfig, data: TrainingData) -> str:
    """Return the data that decide which minimum is the best: `validation`, or `train` for all training data."""
    if config.subsets_select != "auto":
        return config.subsets_select
    return "validation" if data.samples(SplitName.VALIDATION) else "train"


def _losses(
    data: TrainingData, model: RunModel, union: TrainingData, w: Tensor, needed: str | None
) -> dict[str, float]:
    """Return objective_full and, where there are held-out data, validation_loss; `needed` is charged as selection."""
    purposes: dict[str, Purpose] = {
        name: "selection" if name == needed else "evaluation" for name in ("train", "validation")
    }
    model.refresh_batch_norm(union, w, SplitName.SUBSET)
    losses = {"objective_full": float(model.objective(data, SplitName.TRAIN).value(w, purposes["train"]))}
    held_out = model.evaluate(data, w, SplitName.VALIDATION, purpose=purposes["validation"])
    return losses if held_out is None else {**losses, "validation_loss": training_loss(held_out)}
