"""Several input tensors with one row per sample, kept and cut together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from subsetopt.errors import DataError


class Parts:
    """Tensors `(n, ...)` that a model takes together: `model(*tensors)`, or `model(**tensors)` where they have names.

    Immutable; whatever is asked of it is done to every tensor. `names` are the keys of a mapping, None for a sequence.
    Raises `DataError` for no tensors, and for tensors that differ in the number of rows or in their device.
    """

    __slots__ = ("names", "tensors")

    def __init__(self, tensors: Sequence[Tensor], names: Sequence[str] | None = None) -> None:
        self.tensors = tuple(tensors)
        self.names = None if names is None else tuple(names)
        if not self.tensors:
            raise DataError("inputs: no tensors are given; give one for each input of the model")
        for key, tensor in self.items():
            if tensor.ndim == 0 or len(tensor) != len(self):
                raise DataError(
                    f"inputs: {key!r} has shape {tuple(tensor.shape)}, {self.keys[0]!r} has {len(self)} rows; "
                    "give each a row for every sample"
                )

    @classmethod
    def of(cls, given: Mapping[str, Tensor] | Sequence[Tensor]) -> Parts:
        """Return the parts of a mapping of tensors, with its keys as names, or of a sequence of tensors."""
        if isinstance(given, Mapping):
            return cls(list(given.values()), list(given))
        return cls(given)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names, or "0", "1", ... where there are none."""
        return tuple(map(str, range(len(self.tensors)))) if self.names is None else self.names

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each key with its tensor."""
        return zip(self.keys, self.tensors, strict=True)

    def given(self) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Return the tensors as they were given: a dict or a tuple."""
        return self.tensors if self.names is None else dict(self.items())

    def map(self, change: Callable[[Tensor], Tensor]) -> Parts:
        """Return the parts that `change` makes of each tensor."""
        return _rebuilt(map(change, self.tensors), self.names)

    def part(self, key: str) -> Tensor:
        """Return the tensor of this key."""
        return self.tensors[self.keys.index(key)]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice | Tensor) -> Parts:
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None, *, non_blocking: bool = False) -> Parts:
        """Return the parts on `device`, those of floating numbers as `dtype` where that is given."""

        def placed(tensor: Tensor) -> Tensor:
            kind = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            return tensor.to(device, kind, non_blocking=non_blocking)

        return self.map(placed)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """The size of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a sample in each part."""
        return {key: tuple(tensor.shape[1:]) for key, tensor in self.items()}

    def split(self, size: int) -> tuple[Parts, ...]:
        """Return pieces of `size` rows; the last one may have fewer."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))

    def is_inference(self) -> bool:
        """Return whether any tensor was made in inference mode."""
        return any(tensor.is_inference() for tensor in self.tensors)

    def clone(self) -> Parts:
        """Return a copy."""
        return self.map(torch.clone)

    def detach(self) -> Parts:
        """Return the parts outside any graph."""
        return self.map(torch.detach)

    def pin_memory(self) -> Parts:
        """Return a copy in page-locked memory."""
        return self.map(lambda tensor: tensor.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, (self.tensors, self.names)

    def __repr__(self) -> str:
        return f"Parts({', '.join(f'{key}: {tuple(t.shape)} {t.dtype}' for key, t in self.items())})"


def _rebuilt(tensors: Iterable[Any], names: tuple[str, ...] | None) -> Parts:
    parts = object.__new__(Parts)  # unchecked: torch.func passes through what are no tensors, or have lost their rows
    parts.tensors, parts.names = tuple(tensors), names
    return parts


# So that torch.func maps and differentiates over inputs of several tensors as over one.
register_pytree_node(Parts, lambda parts: (list(parts.tensors), parts.names), _rebuilt)

Inputs = Tensor | Parts
"""What a model is given for n samples: one tensor `(n, ...)`, or several."""


def copied_into(into: Inputs, x: Inputs) -> None:
    """Write the numbers of `x` into the tensors of `into`, inputs of the same shapes."""
    own, new = (tuple(each.tensors if isinstance(each, Parts) else (each,)) for each in (into, x))
    for tensor, numbers in zip(own, new, strict=True):
        tensor.copy_(numbers)
