"""Metrics of a model on a split, and running statistics that fit the parameters: what happens around a solve."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.chunks import Data, Preprocess, bounds, check_chunk_size, check_rows, chunks, row_order
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.host import host_read
from subsetopt.objective.losses import CrossEntropy, Loss, LossFunction, MeanSquaredError, make_loss
from subsetopt.objective.memory import GHOST_BATCH
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.protocol import Meter, Purpose

EVALUATION_CHUNK = 512


def evaluate_split(
    flat: FlatModel,
    w: Tensor,
    inputs: Tensor,
    targets: Tensor,
    loss: str | LossFunction | Loss = "cross_entropy",
    preprocess: Preprocess | None = None,
    chunk_size: int | None = None,
    meter: Meter | None = None,
    purpose: Purpose = "evaluation",
    ranks: Ranks | None = None,
    indices: Tensor | None = None,
) -> dict[str, float]:
    """Return {"loss", "accuracy"} or {"loss", "mse"} at w in eval mode, on the rows `indices` (default: all).

    The loss is without any L2 term.

    Accuracy is the share of rows whose largest output is the target class; a loss of the user's own gives "accuracy"
    for integer targets `(n,)`, "mse" for floating targets of the outputs' shape. One host synchronisation.
    Several `ranks` are given the same data, share the rows, and return the same figures, after one collective.
    Raises `DataError` or `ModelError` when data, model and loss do not fit.
    """
    rows, kind = check_rows(indices, inputs, targets), make_loss(loss)
    samples = len(inputs) if rows is None else len(rows)
    ranks = ranks if ranks is not None and samples >= ranks.size else Ranks()
    start, stop = ranks.share(samples)
    if rows is None:
        inputs, targets = inputs[start:stop], targets[start:stop]
    else:
        rows = rows[start:stop]
    data = Data(inputs, targets, rows, flat.device, flat.dtype, preprocess)
    data.targets = kind.prepare(data.targets, flat.dtype)
    wide = accumulation_dtype(flat.device)
    (meter or CountingMeter()).charge("forward", samples, purpose)
    with exact_arithmetic(flat.device), torch.no_grad():
        total, quality = torch.zeros((2,), dtype=wide, device=flat.device).unbind()
        name = ""
        views = flat.views(flat.check(w).detach())
        for x, y in chunks(data, bounds(len(data), check_chunk_size(chunk_size) or EVALUATION_CHUNK)):
            outputs = flat.outputs(views, x, "eval")
            if not name:
                kind.check(outputs, y, data.targets)
                name = _quality_name(kind, outputs, y)
            total += kind.total(outputs, y, wide)
            quality += _quality(name, outputs, y, wide)
        ranks.sum_(total, quality)
        mean_loss, mean_quality = host_read(torch.stack([total, quality]) / samples)
    return {"loss": mean_loss} | ({name: mean_quality} if name != "none" else {})


def model_outputs(
    flat: FlatModel,
    w: Tensor,
    data: Data,
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
    inputs: Tensor,
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
    data = Data(inputs, None, rows, flat.device, flat.dtype, preprocess)
    (meter or CountingMeter()).charge("forward", len(data), purpose)
    with exact_arithmetic(flat.device), torch.no_grad(), flat.averaging():
        views = flat.views(flat.check(w).detach())
        for start, stop in bounds(len(data), check_chunk_size(chunk_size) or GHOST_BATCH):
            flat.call(views, data.inputs(start, stop), "statistics")


def _quality_name(loss: Loss, outputs: Tensor, targets: Tensor) -> str:
    if isinstance(loss, CrossEntropy):
        return "accuracy"
    if isinstance(loss, MeanSquaredError):
        return "mse"
    if not targets.is_floating_point() and targets.ndim == 1 and outputs.ndim == 2:
        return "accuracy"
    return "mse" if outputs.shape == targets.shape else "none"


def _quality(name: str, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    if name == "accuracy":
        return (outputs.argmax(1) == targets).sum(dtype=dtype)
    if name == "mse":
        return MeanSquaredError().total(outputs, targets, dtype)
    return torch.zeros((), dtype=dtype, device=outputs.device)
