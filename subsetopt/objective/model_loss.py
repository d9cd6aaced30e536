"""`loss(model, batch)`: a loss that calls the model itself, for all that is no function of one output tensor.

An objective with such a loss evaluates, in place of the model, `function(model, batch)`; its outputs are the losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.arguments import kind_of
from subsetopt.errors import DataError, ModelError, SettingError
from subsetopt.inputs import Inputs, LazyRows, Parts, Stored
from subsetopt.objective.binding import Binding, as_given
from subsetopt.objective.chunks import bounds
from subsetopt.objective.loss_name import callable_name
from subsetopt.objective.sample_factors import normalised

ModelFunction = Callable[[Any, Any], Any]
"""(model, batch) -> the n losses, or their mean as a scalar, or an object whose `loss` is that."""

_MODELS = {"model", "net", "network", "module", "nn"}
_BATCHES = {"batch", "data", "sample", "samples", "points"}
_TARGETS = {"target", "targets", "y", "y_true", "label", "labels", "true"}


_COUNTED_ROWS = 4096


class ModelLoss:
    """`function(model, batch)` as a loss; see `model_loss`."""

    def __init__(self, function: ModelFunction, count: Callable[[Any], Tensor] | None = None) -> None:
        self.function, self.count = function, count
        self.name = callable_name(function) + ("" if count is None else f"/{callable_name(count)}")

    def bind(self, inputs: Stored, targets: Tensor | None, preprocess: Callable[[Any], Any] | None) -> Binding:
        """Return the data with the targets among the inputs, and counts as targets."""
        unpack: Callable[[Inputs], Any] = as_given
        if targets is not None:
            inputs, unpack = together(inputs, targets), _pair
            preprocess = None if preprocess is None else _of_inputs(preprocess)
        pieces = bounds(len(inputs), _COUNTED_ROWS) if self.count is not None else []
        counts = [self.counts(unpack(inputs[start:stop]), stop - start) for start, stop in pieces]
        counts = counts or [torch.ones(len(inputs), device="cpu", dtype=torch.float64)]

        def function(model: nn.Module, x: Inputs) -> Tensor:
            return self.evaluate(model, unpack(x), len(x))

        return Binding(inputs, torch.cat(counts), function, preprocess)

    def evaluate(self, model: nn.Module, batch: Any, samples: int) -> Tensor:
        """Return the losses `(samples,)`; a mean is repeated, so that it counts once per sample."""
        value = self.function(model, batch)
        losses = value if isinstance(value, Tensor) else getattr(value, "loss", None)
        if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.shape not in ((), (samples,)):
            given = f"shape {tuple(losses.shape)} {losses.dtype}" if isinstance(losses, Tensor) else kind_of(value)
            raise ModelError(
                f"loss: it returns {given} for {samples} samples; return ({samples},) losses or their mean, "
                "or an object that has it as .loss"
            )
        return losses.expand(samples)

    def counts(self, batch: Any, samples: int) -> Tensor:
        """Return what each sample counts in the mean, `(samples,)`."""
        assert self.count is not None, "asked for where it was given"
        counts = self.count(batch)
        if not isinstance(counts, Tensor) or counts.shape != (samples,):
            raise SettingError(
                "count", self.name, f"gives {kind_of(counts)} for {samples} samples", "return one number for each"
            )
        return counts.detach().cpu().double()

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses times what they count; what counts nothing is 0, also where the mean of nothing is NaN."""
        return outputs if self.count is None else torch.where(targets == 0, 0.0, outputs * targets)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return zero: the outputs are the losses."""
        return torch.zeros_like

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(None if self.count is None else targets, weights, len(targets))

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the counts, (n,)."""
        return targets.reshape(len(targets)).to(dtype)

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        if not bool((all_targets >= 0).all()):
            raise DataError("count: it gives a negative or undefined number for a sample; return how much each counts")


def model_loss(function: ModelFunction, count: Callable[[Any], Tensor] | None = None) -> ModelLoss:
    """Return `function(model, batch)` as the loss of an objective.

    `batch` are the inputs of some samples, or `(inputs, targets)` where there are targets: a tensor, a tuple or a dict,
    as they were given. The function calls `model` with them as it likes, derivatives included, and returns one loss per
    sample `(n,)`, or their mean, or an object with one of these as `.loss`. A mean over something else than samples
    needs `count(batch)`, how many of them each sample has, `(n,)`: a language model's mean over tokens, for one, needs
    `lambda batch: (batch["labels"][:, 1:] != -100).sum(1)`. A mean of that kind is added up over batches by the counts.

    Raises `SettingError` for what is not a function.
    """
    for name, value in (("loss", function), ("count", count)):
        if isinstance(value, type) or not (callable(value) or (value is None and name == "count")):
            raise SettingError(name, value, f"is {kind_of(value)}", "give a function, such as (model, batch) -> loss")
    return ModelLoss(function, count)


def calls_the_model(function: Callable[..., Any]) -> bool:
    """Return whether a function of two arguments is `loss(model, batch)`, by their names or annotations.

    Raises `SettingError` where one says so and the other does not.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if len(parameters) < 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters[:2]):
        return False
    first, second = parameters[0], parameters[1]
    annotated = isinstance(first.annotation, type) and issubclass(first.annotation, nn.Module)
    annotated |= isinstance(first.annotation, str) and first.annotation.rpartition(".")[2] == "Module"
    takes_model = annotated or first.name.lower() in _MODELS
    takes_batch, takes_targets = second.name.lower() in _BATCHES, second.name.lower() in _TARGETS
    if (takes_model and takes_targets) or (takes_batch and not takes_model):
        given = f"{getattr(function, '__name__', type(function).__name__)}({first.name}, {second.name})"
        raise SettingError(
            "loss", given, "may be loss(outputs, targets) or loss(model, batch)",
            "name its arguments so, or say model_loss(function)",
        )  # fmt: skip
    return takes_model


def is_mean(losses: Tensor) -> bool:
    """Return whether the losses of several samples are one mean, repeated."""
    return len(losses) > 1 and losses.stride(0) == 0


def require_mean_of_samples(whole: Tensor, parts: list[Tensor], targets: Tensor, loss: ModelLoss) -> None:
    """Raise `ModelError` unless the mean over n samples is made of those over `parts` of them, repeated means all."""
    sizes = [len(part) for part in parts]
    counted = [loss.per_sample(losses.detach(), targets) for losses in (whole, torch.cat(parts))]
    expected, found = (float(losses.double().sum()) for losses in counted)
    scale = max(float(losses.double().abs().sum()) for losses in counted)
    if abs(expected - found) <= max(1e-6, 1e3 * torch.finfo(whole.dtype).eps) * scale:
        return
    values = ", ".join(f"{float(part[0].detach()):.6g} for {size}" for part, size in zip(parts, sizes, strict=True))
    raise ModelError(
        f"loss: it is not the mean over samples ({float(whole[0].detach()):.6g} for {sum(sizes)} samples, {values}); "
        "return one loss per sample, or say what the mean is over: model_loss(function, count=...)"
    )


def together(inputs: Stored, targets: Tensor) -> Parts:
    """Return inputs and targets as one, see `apart`; raises `DataError` for inputs that are read row by row."""
    if isinstance(inputs, LazyRows):
        raise DataError(
            "targets: a loss(model, batch) is given inputs and targets together, and these inputs are read row by row; "
            "let the data set yield the targets among its inputs, and give targets=None"
        )
    y = targets if targets.is_floating_point() else targets.to(torch.int64)
    names = None if isinstance(inputs, Tensor) or inputs.names is None else (*inputs.names, _TARGET)
    parts = (inputs,) if isinstance(inputs, Tensor) else inputs.tensors
    return Parts((*parts, y.to(inputs.device)), names)


def _pair(x: Inputs) -> tuple[Any, Tensor]:
    """Return (inputs, targets), the inputs as given, of what `together` has put together."""
    inputs, targets = apart(x)
    return as_given(inputs), targets


def apart(x: Inputs) -> tuple[Inputs, Tensor]:
    """Return the inputs, as they were, and the targets of what `together` has made."""
    assert isinstance(x, Parts), "targets are one of several parts"
    own = x.tensors[:-1]
    if x.names is None and len(own) == 1:
        return own[0], x.tensors[-1]
    return Parts(own, None if x.names is None else x.names[:-1]), x.tensors[-1]


def _of_inputs(preprocess: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what preprocesses the inputs among inputs and targets."""

    def work(x: Inputs) -> Parts:
        inputs, targets = apart(x)
        return together(preprocess(inputs), targets)

    return work


_TARGET = "__targets__"
