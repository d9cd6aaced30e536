"""The diagonal of F for parameters that no Kronecker factors cover: norm layers, embeddings, and common scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subsetopt.objective.flat_model import FlatModel


class Diagonals:
    """Running means of diagonals by the places of their parameters in `flat`; zero where nothing is known."""

    def __init__(self, flat: FlatModel) -> None:
        self._flat = flat
        self._known: dict[int, Tensor] = {}

    def __getitem__(self, place: int) -> Tensor:
        """Return the diagonal of a parameter, in its shape."""
        return self._known[place] if place in self._known else self._zeros(place)

    def take_in(self, drawn: Mapping[int, Tensor], weight: float) -> None:
        """Move the diagonals by a `weight` towards those of an estimate; what one does not know is zero."""
        for place in sorted({*self._known, *drawn}):
            pair = [known.get(place) for known in (self._known, drawn)]
            before, new = (self._zeros(place) if each is None else each for each in pair)
            self._known[place] = torch.lerp(before, new, weight)

    def packed(self) -> Tensor:
        """Return what is known, in a row."""
        parts = [self._known[place].flatten() for place in sorted(self._known)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self._flat.dtype, device=self._flat.device)

    def unpack(self, packed: Tensor, places: Sequence[int]) -> None:
        """Take back what `packed` returned; checkpoints of earlier versions have zeros for all other parameters."""
        if len(packed) == self._flat.size:
            views = self._flat.views(packed)
            self._known = {place: views[place].clone() for place in places}
            return
        shapes = [self._flat.shapes[place] for place in places]
        parts = packed.split([shape.numel() for shape in shapes])
        self._known = {place: part.view(shape) for place, shape, part in zip(places, shapes, parts, strict=True)}

    def clear(self) -> None:
        """Forget all."""
        self._known = {}

    def _zeros(self, place: int) -> Tensor:
        """Return zeros in the shape of a parameter, which take no memory."""
        zero = torch.zeros((), dtype=self._flat.dtype, device=self._flat.device)
        return zero.expand(self._flat.shapes[place])
