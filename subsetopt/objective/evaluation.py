"""Metrics of a model on a split, and running statistics that fit the parameters: what happens around a solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.inputs import Given, Stored, as_inputs, cut
from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.chunks import (
    PlacedSamples,
    Preprocess,
    bounds,
    check_chunk_size,
    check_rows,
    chunks,
    row_order,
)
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.host import host_read
from subsetopt.objective.losses import CrossEntropy, Loss, LossFunction, MeanSquaredError, make_loss
from subsetopt.objective.memory import GHOST_BATCH
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.protocol import Meter, Purpose
from subsetopt.objective.quality import Quality, quality_of
from subsetopt.objective.weighting import WeightedLoss, WeightedTargets, values_of, without_weights

EVALUATION_CHUNK = 512


def evaluate_split(
    flat: FlatModel,
    w: Tensor,
    inputs: Given,
    targets: Tensor,
    loss: str | LossFunction | Loss = "cross_entropy",
    preprocess: Preprocess | None = None,
    chunk_size: int | None = None,
    meter: Meter | None = None,
    purpose: Purpose = "evaluation",
    ranks: Ranks | None = None,
    indices: Tensor | None = None,
    target_std: Sequence[float] | None = None,
    sample_weight: Tensor | None = None,
) -> dict[str, float]:
    """Return {"loss", "accuracy"} or {"loss", "mse", "r2"} at w in eval mode, on the rows `indices` (default: all).

    The loss is without any L2 term.

    Accuracy is the share of rows whose largest output is the target class; a loss of the user's own gives "accuracy"
    for integer targets `(n,)`, "mse" where it is torch's L1, Huber or squared loss, and else the loss alone.
    "r2" is 1 - sum (z - y)^2 / sum (y - mean y)^2, averaged over the output columns that vary, and left out where none
    does. Where the targets were standardised, dividing by `target_std` (one per column), "mse", and "loss" for squared
    loss, are in the units that they had before, and "standardised_loss" is the loss as it is trained. One host
    synchronisation.
    With `sample_weight`, checked weights `(n,)` of all rows given, all figures are weighted.
    Several `ranks` are given the same data, share the rows, and return the same figures, after one collective.
    Raises `DataError` or `ModelError` when data, model and loss do not fit.
    """
    inputs = flat.fitting(as_inputs(inputs), preprocess)
    rows, kind = check_rows(indices, inputs, targets), make_loss(loss)
    samples = len(inputs) if rows is None else len(rows)
    ranks = ranks if ranks is not None and samples >= ranks.size else Ranks()
    first = targets[:1] if rows is None else targets[rows[:1].to(targets.device)]
    start, stop = ranks.share(samples)
    factors = _factors(kind, targets, rows, flat.dtype, sample_weight)
    if factors is not None:
        factors, kind = factors[start:stop].to(flat.device, flat.dtype), WeightedLoss(kind)
    if rows is None:
        inputs, targets = cut(inputs, start, stop), targets[start:stop]
    else:
        rows = rows[start:stop]
    data = PlacedSamples(inputs, targets, rows, flat.device, flat.dtype, preprocess)
    data.targets = kind.prepare(data.targets, flat.dtype)
    if factors is not None:
        data.targets = cast(Tensor, WeightedTargets(data.targets, factors))
    wide = accumulation_dtype(flat.device)
    (meter or CountingMeter()).charge("forward", samples, purpose)
    with exact_arithmetic(flat.device), torch.no_grad():
        total = torch.zeros((), dtype=wide, device=flat.device)
        quality: Quality | None = None
        views = flat.views(flat.check(w).detach())
        for x, y in chunks(data, bounds(len(data), check_chunk_size(chunk_size) or EVALUATION_CHUNK)):
            outputs = flat.outputs(views, x, "eval")
            if quality is None:
                kind.check(outputs, y, data.targets)
                quality = quality_of(without_weights(kind), outputs, values_of(y), first, wide)
            total += kind.total(outputs, y, wide)
            quality.add(outputs, values_of(y), y.factors if isinstance(y, WeightedTargets) else None)
        assert quality is not None, "there is at least one sample"
        ranks.sum_(total, *quality.sums)
        mean_loss, *sums = host_read(torch.cat([total.reshape(1), *(part.reshape(-1) for part in quality.sums)]))
    mean_loss /= samples
    figures = quality.figures(sums, samples, target_std)
    if target_std is None:
        return {"loss": mean_loss, **figures}
    undone = figures["mse"] if isinstance(without_weights(kind), MeanSquaredError) else mean_loss
    return {"loss": undone, **figures, "standardised_loss": mean_loss}


def _factors(
    loss: Loss, targets: Tensor, rows: Tensor | None, dtype: torch.dtype, weights: Tensor | None
) -> Tensor | None:
    """Return how much each row counts in the loss of all (see `sample_factors.py`)."""
    if weights is None and isinstance(loss, CrossEntropy | MeanSquaredError):
        return None
    if rows is not None:
        targets, weights = targets[rows.to(targets.device)], None if weights is None else weights[rows.cpu()]
    return loss.factors(loss.prepare(targets, dtype), weights)


def model_outputs(
    flat: FlatModel,
    w: Tensor,
    data: PlacedSamples,
    chunk_size: int = EVALUATION_CHUNK,
    meter: Meter | None = None,
    purpose: Purpose = "evaluation",
    allow_tf32: bool = False,
) -> Tensor:
    """Return the outputs in eval mode for all of `data`, shape (n, M)."""
    (meter or CountingMeter()).charge("forward", len(data), purpose)
    with exact_arithmetic(flat.device, allow_tf32), torch.no_grad():
        views = flat.views(flat.check(w).detach())
        pieces = bounds(len(data), chunk_size)
        return torch.cat([flat.outputs(views, data.inputs(start, stop), "eval") for start, stop in pieces])


def update_batch_norm(
    flat: FlatModel,
    w: Tensor,
    inputs: Stored,
    preprocess: Preprocess | None = None,
    chunk_size: int | None = None,
    meter: Meter | None = None,
    purpose: Purpose = "calibration",
) -> None:
    """Set the running statistics of batch normalisation to those of `inputs` at w, so that eval mode fits training.

    They become the plain average of the chunks' statistics (momentum None; the recipe of stochastic weight averaging,
    Izmailov et al. 2018), over the chunks a deterministic objective on the same rows uses. Charged as `purpose`;
    nothing is done, or charged, for a model that keeps no statistics.
    """
    if not flat.has_running_statistics:
        return
    rows = row_order(len(inputs))
    data = PlacedSamples(inputs, None, rows, flat.device, flat.dtype, preprocess)
    (meter or CountingMeter()).charge("forward", len(data), purpose)
    with exact_arithmetic(flat.device), torch.no_grad(), flat.averaging():
        views = flat.views(flat.check(w).detach())
        for start, stop in bounds(len(data), check_chunk_size(chunk_size) or GHOST_BATCH):
            flat.call(views, data.inputs(start, stop), "statistics")
