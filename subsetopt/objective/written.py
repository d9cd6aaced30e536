"""Whether a forward pass writes parameters: the point would move under the solver.

A version counter sees what is written even where it changes nothing yet, as a bound that no weight is beyond; bytes
see what goes past the counter, by `.data`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.errors import ModelError
from subsetopt.objective.flat_model import FlatModel


class Watch:
    """What the parameters are before a forward pass at w, (P,), by its views `leaves`; then ask `require_unwritten`."""

    def __init__(self, flat: FlatModel, w: Tensor, leaves: list[Tensor]) -> None:
        """Keep versions of all parameters, a copy of w, and a sum of the bytes of each frozen one."""
        self._flat, self._w, self._leaves = flat, w, leaves
        self._version, self._before = _version(w), w.detach().clone()
        self._frozen = self._of_frozen()

    def require_unwritten(self) -> None:
        """Raise `ModelError` where a parameter has been written, or another tensor put in its place."""
        pairs = zip(self._flat.names, self._leaves, self._flat.views(self._before), strict=True)
        changed = [name for name, now, before in pairs if not _alike(now.detach(), before)]
        if not changed and _version(self._w) != self._version:
            changed = ["parameters"]
        if not changed and self._of_frozen() != self._frozen:
            changed = ["frozen parameters"]
        if changed:
            raise ModelError(
                f"model: its forward pass writes {', '.join(changed[:3])} in place, so that no two evaluations are at "
                "one point; write only where self.training, or let the forward pass use a changed copy, as "
                "torch.nn.utils.parametrize does"
            )

    def _of_frozen(self) -> list[tuple[int, int]]:
        """Return versions and sums; not of embeddings with `max_norm`, which scale a row when it is first used."""
        scaling = (module for module in self._flat.modules() if getattr(module, "max_norm", None) is not None)
        scaled = {each.data_ptr() for module in scaling for each in module.parameters(recurse=False)}
        kept = [each for each in self._flat.constants() if each.data_ptr() not in scaled]
        return [(_version(each), _sum_of_bytes(each)) for each in kept]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _alike(now: Tensor, before: Tensor) -> bool:
    return now.shape == before.shape and torch.equal(now.nan_to_num(), before.nan_to_num())


def _sum_of_bytes(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return 0
    return int(tensor.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8).sum(dtype=torch.int64))
