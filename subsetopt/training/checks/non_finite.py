"""Which samples a model has no finite outputs for: the cause of a loss that is no number from the start."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from subsetopt.objective import FlatModel
from subsetopt.objective.chunks import PlacedSamples
from subsetopt.objective.evaluation import model_outputs
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData


def non_finite_notes(data: TrainingData, flat: FlatModel, metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return one line for each split whose loss is not finite although that is not the training's doing.

    Looks at the starting parameters, at which a run that diverged later had finite outputs for all samples.
    """
    notes = []
    for name in metrics:
        tensors = None if math.isfinite(metrics[name]["loss"]) else data.tensors(SplitName(name))
        if tensors is None:
            continue
        placed = PlacedSamples(tensors[0], None, None, flat.device, flat.dtype, data.preprocess)
        bad = ~torch.isfinite(model_outputs(flat, flat.initial(), placed)).flatten(1).all(1)
        if bool(bad.any()):
            notes.append(
                f"{name}: the model's outputs are NaN or infinite for {int(bad.sum())} of {len(bad)} samples before "
                f"any training, first for row {int(bad.nonzero()[0])} of the split: look for log, sqrt or division "
                "that the inputs do not allow"
            )
    return notes
