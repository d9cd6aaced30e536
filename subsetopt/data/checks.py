"""Turn arrays into tensors and refuse bad data before any work: one line that names the array and the place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.errors import DataError
from subsetopt.inputs import LazyRows, Parts, Stored, each_part

_BLOCK = 2**22
_LARGEST = torch.finfo(torch.float32).max
_FLOATS_OF_TORCH = frozenset({torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})
# What numpy has and torch lacks, or lacks arithmetic for.
_WIDER: dict[str, type[np.generic]] = {
    "bool": np.uint8,
    "uint16": np.int32,
    "uint32": np.int64,
    "uint64": np.int64,
    "float16": np.float32,
}


def as_array(array: Any, what: str) -> NDArray[Any]:
    """Return anything like an array as one of numpy; raises `DataError` for ragged, sparse and masked ones."""
    if isinstance(array, Tensor):
        return _dense(array, what)
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise DataError(f"{what}: has {int(array.mask.sum())} masked values; fill them in or leave the rows out")
    if hasattr(array, "toarray") and not isinstance(array, np.ndarray):
        raise DataError(f"{what}: is a sparse matrix; make it dense with .toarray()")
    try:
        return np.asarray(array)
    except ValueError as error:
        raise DataError(f"{what}: rows have different shapes; make them one array") from error


def _dense(tensor: Tensor, what: str) -> NDArray[Any]:
    """Return a tensor as an array; raises `DataError` for one that does not hold its numbers as an array does."""
    kinds = {
        "nested, of rows of different shapes; pad it with torch.nested.to_padded_tensor": tensor.is_nested,
        "on the meta device and holds no numbers; give the data themselves": tensor.is_meta,
        "quantised; make it floating with .dequantize()": tensor.is_quantized,
    }
    for kind in (kind for kind, true in kinds.items() if true):
        raise DataError(f"{what}: is {kind}")
    if tensor.is_sparse or tensor.layout != torch.strided:
        raise DataError(f"{what}: is a sparse tensor; make it dense with .to_dense()")
    own = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        array: NDArray[Any] = (own.float() if own.dtype in _FLOATS_OF_TORCH else own).numpy()
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{what}: is no plain tensor ({reason}); give one that .numpy() can show") from None
    return array


def as_tensor(array: Any, what: str) -> Tensor:
    """Return real numbers as a contiguous tensor on the CPU, in their own dtype where torch computes with it.

    Raises `DataError` for objects, strings, dates, complex numbers and ragged lists.
    """
    array = as_array(array, what)
    if array.dtype.kind not in "buif":
        raise DataError(f"{what}: has dtype {array.dtype}, needs numbers; convert it to float32, or uint8 for images")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{what}: holds integers beyond 2^63 - 1; convert it to float64")
    wider = np.float64 if array.dtype.itemsize > 8 else _WIDER.get(array.dtype.name)
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused where that is looked for
        array = array.astype(wider or array.dtype.newbyteorder("="), order="C", copy=False)
    # torch cannot share memory that is read-only or runs backwards, were it along an axis of one element.
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def checked_inputs(array: Any, what: str, ranks: Ranks | None = None) -> Any:
    """Return inputs (n, ...) as a tensor, or those of several parts or rows to be read as they are.

    Raises `DataError` for a wrong shape, no rows, NaN or infinity. Several `ranks` look for the latter in a part of
    the rows each.
    """
    if isinstance(array, Parts):
        for key, part in array.items():
            require_rows(part, f"{what}[{key!r}]")
            require_finite(part, f"{what}[{key!r}]", *(ranks or Ranks()).share(len(part)))
        return array
    if isinstance(array, LazyRows):
        for name, part in each_part(array):
            where = what if name is None else f"{what}[{name!r}]"
            _require_shape(part, where, least=2 if name is None else 1)
            require_finite(part, where, *(ranks or Ranks()).share(len(part)))
        return array
    inputs = as_tensor(array, what)
    _require_shape(inputs, what)
    require_finite(inputs, what, *(ranks or Ranks()).share(len(inputs)))
    return inputs


def _require_shape(inputs: Any, what: str, least: int = 2) -> None:
    if inputs.ndim < least:
        shape = tuple(inputs.shape)
        raise DataError(f"{what}: has shape {shape}, needs (n, features) or (n, C, H, W); try .reshape(-1, 1)")
    require_rows(inputs, what)
    if inputs.numel() == 0:
        raise DataError(f"{what}: has shape {tuple(inputs.shape)}, so no features; check how the array was made")


def regression_targets(array: Any, what: str) -> Tensor:
    """Return floating targets (n, M); raises `DataError` for what are no numbers and for another shape."""
    targets = as_tensor(array, what)
    require_rows(targets, what)
    if targets.ndim not in (1, 2) or targets.numel() == 0:
        raise DataError(f"{what}: has shape {tuple(targets.shape)}, needs (n,) or (n, M); flatten what is left over")
    values = targets if targets.is_floating_point() else targets.double()
    require_finite(values, what)
    return values.reshape(len(values), -1)


def require_same_length(inputs: Stored, targets: Tensor, inputs_name: str, targets_name: str) -> None:
    """Raise `DataError` unless every input has a target."""
    if len(inputs) != len(targets):
        raise DataError(
            f"{inputs_name} has {len(inputs)} rows, {targets_name} {len(targets)}; each row needs one target"
        )


def require_finite(values: Any, what: str, begin: int = 0, end: int | None = None) -> None:
    """Raise `DataError` that counts the entries that no float32 holds and shows the first, a block of rows at a time.

    These are NaN, infinity, and numbers above 3.4e38; models compute in float32, and the squares of larger ones
    overflow in float64, too. Rows from `begin` up to `end` (None: all that follow) are checked.
    """
    if not values.is_floating_point():
        return
    rows_per_block = max(1, _BLOCK // max(1, values[:1].numel()))
    count, first = 0, None
    end = len(values) if end is None else end
    for start in range(begin, end, rows_per_block):
        bad = ~(values[start : min(start + rows_per_block, end)].abs() <= _LARGEST)
        found = int(bad.sum())
        if found and first is None:
            position = torch.nonzero(bad)[0]
            position[0] += start
            first = tuple(position.tolist())
        count += found
    if first is not None:
        value = float(values[first])
        problem = "NaN or infinite" if not math.isfinite(value) else "NaN, infinite or too large for float32"
        remedy = "remove or replace them" if not math.isfinite(value) else "give the values in a larger unit"
        raise DataError(f"{what}: {count} values are {problem}, first {value} at {list(first)}; {remedy}")


def require_rows(values: Any, what: str) -> None:
    """Raise `DataError` for an array without rows."""
    if values.ndim == 0 or len(values) == 0:
        raise DataError(f"{what}: has no rows; leave the split out or fill it")
