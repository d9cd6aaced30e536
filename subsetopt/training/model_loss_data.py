"""The data of a run whose loss calls the model itself: batches as the loss takes them, and what is evaluated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subsetopt.data import Dataset, Preprocess, Split
from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs, LazyRows, Stored
from subsetopt.objective import FlatModel, Loss, ModelLoss, Objective
from subsetopt.objective.model_loss import apart, is_mean, together
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.weighting import WeightedLoss
from subsetopt.seeding import seeded_globals

CHECKED = 16


class BatchPreprocess(Preprocess):
    """Preprocesses the inputs that stand beside targets; the loss gets the targets as they are, in `dtype`."""

    def __init__(self, inner: Preprocess) -> None:
        super().__init__(inner.normalization, inner.dtype, inner.embedded)
        self._inner = inner

    def __call__(self, inputs: Any) -> Any:
        """Return the batch as the loss gets it."""
        x, y = apart(inputs)
        return together(self._inner(x), y.to(self.dtype) if y.is_floating_point() else y)


def raw_preprocess(batches: Stored, dtype: torch.dtype) -> Preprocess:
    """Return what casts whole samples, which nothing standardises: floats and images of bytes to `dtype`."""
    one = batches.template if isinstance(batches, LazyRows) else batches
    tokens = (
        isinstance(one, Tensor) and not one.is_floating_point() and not (one.dtype == torch.uint8 and one.ndim == 4)
    )
    return Preprocess(None, dtype, embedded=tokens)


def initialise_for(loss: ModelLoss, model: nn.Module, dataset: Dataset, whole: bool) -> None:
    """Give lazy parameters of `model` their shapes by a call of the loss; raises `ModelError` where that fails."""
    if not any(is_lazy(parameter) for parameter in model.parameters()):
        return
    dtype = next(parameter.dtype for parameter in model.parameters())
    few, targets = dataset.train.inputs[:CHECKED], dataset.train.targets[:CHECKED]
    preprocess = raw_preprocess(few, dtype) if whole else Preprocess(dataset.normalization, dtype)
    binding = loss.bind(few, None if whole else targets, None)
    x = (preprocess if whole else BatchPreprocess(preprocess))(binding.inputs[:CHECKED])
    with torch.no_grad(), seeded_globals(0, "check"):
        outputs_of(lambda x: binding.function(model, x), x)


def bound(
    loss: ModelLoss, flat: FlatModel, dataset: Dataset, preprocess: Preprocess, whole: bool
) -> tuple[Loss, FlatModel, Dataset, Preprocess]:
    """Return loss, model, data and preprocessing of a run: the outputs of that model are the losses of samples.

    With `whole` the samples of `dataset` have their targets in them; else a batch is (inputs, targets). Targets of the
    data returned are what each sample counts.
    """

    def of(split: Split) -> Split:
        bound_split = loss.bind(split.inputs, None if whole else split.targets, None)
        return replace(split, inputs=bound_split.inputs, targets=bound_split.targets[:, None])

    function = loss.bind(dataset.train.inputs[:1], None if whole else dataset.train.targets[:1], None).function
    validation, test = (None if split is None else of(split) for split in (dataset.validation, dataset.test))
    data = replace(
        dataset,
        task="regression",
        train=of(dataset.train),
        validation=validation,
        test=test,
        class_names=(),
        target_normalization=None,
    )
    inner = preprocess if whole else BatchPreprocess(preprocess)
    return WeightedLoss(loss), flat.evaluated_by(function), data, inner


def check_bound(loss: Loss, flat: FlatModel, train: Split, preprocess: Preprocess) -> None:
    """Evaluate the loss on a few samples, as an objective does; raises a `UserError` where it does not fit.

    Raises `ModelError` for a loss that returns a mean, where samples have different weights.
    """
    few = train.inputs[:CHECKED].to(flat.device)
    weights = train.weights
    if weights is not None and bool((weights != weights[0]).any()) and gives_mean(flat, few, preprocess):
        raise ModelError("loss: it returns a mean; sample_weight needs one loss per sample, shape (n,)")
    Objective(flat, few, train.targets[:CHECKED].to(flat.device), loss=loss, preprocess=preprocess)


def gives_mean(flat: FlatModel, few: Inputs, preprocess: Preprocess) -> bool:
    """Return whether a bound loss returns the mean of the losses of `few` samples, so that no sample has its own."""
    with torch.no_grad():
        outputs = flat.forward(flat.initial(), preprocess(few.to(flat.device)), "deterministic")
    return outputs.ndim == 1 and is_mean(outputs)
