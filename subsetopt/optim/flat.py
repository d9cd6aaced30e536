"""The parameters of an optimizer as one flat vector of real numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from subsetopt.errors import SettingError


class FlatParameters:
    """Those of `parameters` that require a gradient, in their order, as one vector of shape (P,).

    A complex entry counts as two real ones. Parameters of several dtypes share a vector of the widest, as they do in
    `torch.optim.LBFGS`. Raises `SettingError` for parameters that are not on one device, or hold no numbers.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        _check(self.parameters)
        self._parts = [_real(p) for p in self.parameters]
        self._sizes = [part.numel() for part in self._parts]
        dtypes = [part.dtype for part in self._parts]
        self.dtype = reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()
        self.device = self._parts[0].device if self._parts else torch.device("cpu")

    @property
    def size(self) -> int:
        """P."""
        return sum(self._sizes)

    def read(self) -> Tensor:
        """Return a copy, shape (P,)."""
        return self.joined(self._parts)

    def write(self, w: Tensor) -> None:
        """Copy w into the parameters; where one is of a narrower dtype, w becomes what that can hold."""
        with torch.no_grad():
            for part, values in zip(self._parts, torch.split_with_sizes(w, self._sizes), strict=True):
                part.copy_(values.view(part.shape))
                if part.dtype != w.dtype:
                    values.copy_(part.reshape(-1))

    def gradient(self) -> Tensor:
        """Return a copy of the gradients, shape (P,); a parameter without one counts as gradient zero."""
        return self.joined(
            [part.new_zeros(part.shape) if p.grad is None else _real(p.grad) for p, part in self._pairs()]
        )

    def selected(self, full: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
        """Return, of a vector over *all* `parameters`, the entries of those that are here; None if it does not fit."""
        sizes = [_entries(p) for p in parameters]
        if full.dim() != 1 or full.numel() != sum(sizes):
            return None
        here = {id(p) for p in self.parameters}
        parts = zip(parameters, torch.split_with_sizes(full, sizes), strict=True)
        kept = [part.to(self.device, self.dtype) for p, part in parts if id(p) in here]
        return torch.cat(kept) if kept else full[:0]

    def _pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(self.parameters, self._parts, strict=True)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector (P,), each in shape and dtype of its parameter's real numbers."""
        parts = zip(self._parts, torch.split_with_sizes(vector, self._sizes), strict=True)
        return [values.view(part.shape).to(part.dtype) for part, values in parts]

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors of the parameters' shapes as one new vector, shape (P,)."""
        return torch.cat([torch.zeros(0, dtype=self.dtype, device=self.device), *(t.reshape(-1) for t in tensors)]).to(
            self.dtype
        )


def _real(tensor: Tensor) -> Tensor:
    dense = tensor.detach()
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def _entries(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)


def _check(parameters: Sequence[Tensor]) -> None:
    devices = sorted({str(p.device) for p in parameters})
    if len(devices) > 1:
        raise SettingError("params", devices, "several devices", "move all parameters to one")
    for p in parameters:
        if is_lazy(p):
            raise SettingError("params", "uninitialised", "a lazy module has no parameters yet", "run one batch first")
        if p.device.type == "meta":
            raise SettingError("params", "meta", "parameters hold no numbers", "load or initialise the model first")
        if hasattr(p, "full_tensor"):
            raise SettingError(
                "params", type(p).__name__, "each rank holds a part of each parameter", "use DistributedDataParallel"
            )
