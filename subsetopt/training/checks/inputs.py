"""Which inputs a model takes as numbers, to be standardised, and which as tokens, to be left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subsetopt.data import Dataset, Normalization, Preprocess
from subsetopt.errors import ModelError
from subsetopt.inputs import TRIED, Inputs, LazyRows, Parts, Stored, called, each_part, taken, takes_tensor
from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator, seeded_globals

_ROWS = 8
_READ = 4096  # rows looked at together, where they have to be read
_NUDGE = 0.1  # parameters are moved by so much, so that a head initialised to zero does not hide what it reads


def fitted_inputs(flat: FlatModel, dataset: Dataset) -> tuple[Dataset, bool]:
    """Return the data set with the normalisation that suits `flat`, and whether it embeds its integer inputs.

    Integer inputs are tokens where the model takes integers and fails on floats, or gives the same outputs for every
    fraction of a whole number (it casts to integers itself): then nothing is standardised. Of float vectors `(n, D)`
    those columns are left alone that hold whole numbers and whose fractions the model does not see.
    """
    inputs: Stored = dataset.train.inputs
    if isinstance(inputs if not isinstance(inputs, LazyRows) else inputs.template, Parts):
        return _fitted_parts(flat, dataset), False
    assert not isinstance(inputs, Parts), "several inputs have been dealt with"
    if not inputs.is_floating_point() and not (inputs.dtype == torch.uint8 and inputs.ndim == 4):
        if _embeds(flat, inputs):
            return replace(dataset, normalization=None), True
    elif inputs.is_floating_point() and _whole(inputs[:_ROWS]) and _fails(flat, inputs[:_ROWS].to(flat.dtype)):
        _require_numbers(flat, inputs)
    if not isinstance(dataset.normalization, Normalization) or inputs.ndim != 2:
        return dataset, False
    return replace(dataset, normalization=_without(dataset.normalization, _unseen_columns(flat, inputs))), False


def handed_on_as(model: nn.Module, dataset: Dataset) -> str | None:
    """Return the name by which `model` takes its only input, or as whose entry of a dict; None for a plain tensor."""
    inputs, name = dataset.train.inputs, dataset.input_name
    if name is None or any(is_lazy(parameter) or parameter.is_meta for parameter in model.parameters()):
        return None
    nothing = torch.zeros((), device="cpu")
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), nothing)
    few: Tensor = inputs[:TRIED].to(like.device)
    numbers = few.is_floating_point() or few.dtype == torch.uint8
    if not numbers:  # tokens, or quantities
        with suppress(ModelError):
            return None if takes_tensor(model, Parts([few.long()], [name])) else name
    return None if takes_tensor(model, Parts([few.to(like.dtype)], [name])) else name


def _fitted_parts(flat: FlatModel, dataset: Dataset) -> Dataset:
    """Return the data set where the model takes its several inputs; integers are tokens or masks, and stay so.

    Raises `ModelError` where it fails on the rows with the smallest and the largest whole numbers: a table that is too
    small shows before a run, not in it.
    """
    inputs: Stored = dataset.train.inputs
    whole = [part for _, part in each_part(inputs) if not part.is_floating_point() and part.dtype != torch.bool]
    if not whole:
        return dataset
    rows = torch.cat([_telling_rows(part) for part in whole]).unique()
    few = Preprocess(dataset.normalization, flat.dtype)(taken(inputs, rows)[:])
    try:
        _outputs(flat, few)
    except IndexError as error:
        ranges = ", ".join(
            f"{key} {int(part.min())} to {int(part.max())}"
            for key, part in each_part(few)
            if not part.is_floating_point() and part.dtype != torch.bool
        )
        raise ModelError(
            f"model: it cannot embed the integers of the training data, {ranges} ({error}); "
            "give the embedding more rows, or number the tokens from 0"
        ) from None
    return dataset


def _embeds(flat: FlatModel, inputs: Tensor | LazyRows) -> bool:
    rows = inputs[_telling_rows(inputs)].long()
    outside: IndexError | None = None
    try:
        accepted = _outputs(flat, rows) is not None
    except IndexError as error:
        accepted, outside = False, error
    shape = (_ROWS, *inputs.shape[1:])
    whole, between = torch.zeros(shape, dtype=flat.dtype, device="cpu"), _fractions(shape, flat.dtype)
    try:
        first, second = _outputs(flat, whole), _outputs(flat, between)
    except IndexError:
        first = second = None
    if outside is not None and first is None:
        low, high = int(rows.min()), int(rows.max())
        raise ModelError(
            f"model: x_train has integers from {low} to {high}, which it cannot embed ({outside}); "
            "give the embedding more rows, or number the tokens from 0"
        )
    return accepted and (first is None or second is None or torch.equal(first, second))


def _telling_rows(inputs: Tensor | LazyRows) -> Tensor:
    """Return the rows with the smallest and the largest number, and some others."""
    lows, highs = zip(*((block.amin(1), block.amax(1)) for block in _blocks(inputs)), strict=True)
    ends = torch.stack([torch.cat(lows).argmin(), torch.cat(highs).argmax()])
    return torch.cat([ends, torch.arange(min(_ROWS, len(inputs)), device=ends.device)])


def _unseen_columns(flat: FlatModel, inputs: Tensor | LazyRows) -> list[int]:
    """Return the columns of whole numbers through which no gradient flows: the model casts them to integers."""
    x = _fractions((2 * _ROWS, inputs.shape[1]), flat.dtype).to(flat.device).requires_grad_()
    try:
        with seeded_globals(0, "check"), torch.enable_grad():
            given = x if flat.input_name is None else Parts([x], [flat.input_name])
            # A call of `flat` itself keeps its inputs out of the graph.
            outputs = called(flat.module(_nudged(flat)).eval(), given)
            weights = torch.rand(outputs.shape, generator=make_generator(1, "check")).to(outputs)
            (gradient,) = torch.autograd.grad((outputs * weights).sum(), x, allow_unused=True)
    except Exception:  # whatever a foreign model does here: what it cannot do is told where it is checked
        return []
    unseen = range(inputs.shape[1]) if gradient is None else torch.nonzero((gradient == 0).all(0)).flatten().tolist()
    whole = torch.stack([(block == block.trunc()).all(0) for block in _blocks(inputs)]).all(0) if unseen else ()
    return [column for column in unseen if bool(whole[column])]


def _blocks(inputs: Tensor | LazyRows) -> Iterator[Tensor]:
    """Yield the rows, flattened: all at once where they are in memory."""
    rows = _READ if isinstance(inputs, LazyRows) else len(inputs)
    for start in range(0, len(inputs), rows):
        block: Tensor = inputs[start : start + rows]
        yield block.reshape(len(block), -1)


def _without(normalization: Normalization, columns: list[int]) -> Normalization | None:
    mean, std = list(normalization.mean), list(normalization.std)
    for column in columns:
        mean[column], std[column] = 0.0, 1.0
    return None if len(columns) == len(mean) else Normalization(tuple(mean), tuple(std))


def _require_numbers(flat: FlatModel, inputs: Tensor | LazyRows) -> None:
    """Raise `ModelError` where a model that fails on whole floats takes them as integers."""
    try:
        embeds = _outputs(flat, inputs[:_ROWS].long()) is not None
    except IndexError:
        embeds = True
    if embeds:
        raise ModelError(
            f"model: it embeds integers, and x_train holds whole numbers as {str(inputs.dtype).partition('.')[2]}; "
            "give them as int64"
        )


def _fails(flat: FlatModel, x: Tensor) -> bool:
    try:
        return _outputs(flat, x) is None
    except IndexError:
        return True


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() or bool((values == values.trunc()).all())


def _fractions(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return 0.05 + 0.9 * torch.rand(shape, generator=make_generator(0, "check"), dtype=dtype)


def _nudged(flat: FlatModel) -> Tensor:
    w = flat.initial()
    return w + _NUDGE * torch.randn(w.shape, generator=make_generator(2, "check"), dtype=w.dtype).to(w.device)


def _outputs(flat: FlatModel, x: Inputs) -> Tensor | None:
    """Return outputs in eval mode, None where the model fails; an `IndexError` is let through."""
    try:
        with seeded_globals(0, "check"), torch.no_grad():
            outputs = flat.call(flat.views(_nudged(flat)), x.to(flat.device), "eval")
    except IndexError:
        raise
    except Exception:  # a foreign model's own error: the check that follows tells it
        return None
    return outputs if isinstance(outputs, Tensor) else None
