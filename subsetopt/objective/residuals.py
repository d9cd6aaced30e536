"""Squared residuals that call the model themselves, as physics-informed losses do; collocation points are the samples.

f(w) = sum over terms t of weight_t * mean over points i of t of |r_t(model, x_i)|^2. The residuals are what
Gauss-Newton calls outputs: G v = 2 sum_i c_i J_i' J_i v, J_i the derivative of the residuals of point i in w.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.arguments import finite_number, kind_of
from subsetopt.errors import DataError, ModelError, SettingError, UserError
from subsetopt.inputs import Inputs, LazyRows, Parts, Stored, as_inputs
from subsetopt.objective.binding import Binding, as_given
from subsetopt.objective.loss_name import callable_name

ResidualFunction = Callable[[Any, Any], Any]
"""(model, points) -> residuals (n,) or (n, M) of n points, or a tuple of such."""


@dataclass(frozen=True)
class Term:
    """One residual with its points and the weight of its mean square."""

    name: str
    function: ResidualFunction
    points: Inputs
    weight: float

    def residuals(self, model: nn.Module, points: Inputs) -> Tensor:
        """Return the residuals at `points`, shape (n, M); raises `ModelError` for other shapes."""
        n, found = len(points), self.function(model, as_given(points))
        columns = []
        for value in found if isinstance(found, tuple | list) else (found,):
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[:1] != (n,):
                given = f"shape {tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else kind_of(value)
                raise ModelError(
                    f"residual {self.name!r}: it returns {given} for {n} points; return ({n},) or ({n}, M) residuals, "
                    "not their squares or mean"
                )
            columns.append(value.reshape(n, -1))
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)


class Residuals:
    """Residuals of one or several terms at their points, as data and loss of an objective in one.

    `residual` is a function (model, points) -> residuals (n,), (n, M) or a tuple of those, with its `points`: a tensor
    `(n, ...)`, or a tuple or dict of tensors, handed to the function as they are. Derivatives of the model in the
    points are taken inside, by `torch.autograd.grad(..., create_graph=True)` or `torch.func`. Several terms are a dict
    {name: (function, points) or (function, points, weight)}, weight 1 where none is given. A point's residuals must not
    depend on the other points.

    `points` and `term` (the number of each point's term) are the data of an objective, this object is its loss. Each
    term's weight is that of its mean over those points that the objective has. Raises `SettingError` or `DataError`.
    """

    def __init__(self, residual: Mapping[str, Any] | ResidualFunction, points: Any = None) -> None:
        if isinstance(residual, Mapping):
            if points is not None:
                raise SettingError("points", kind_of(points), "each term has its own", "give points within the terms")
            self.terms = tuple(_term(name, entry) for name, entry in residual.items())
        else:
            self.terms = (_term("residual", (residual, points)),)
        if not self.terms:
            raise SettingError("residual", {}, "has no terms", 'give {"interior": (function, points, weight), ...}')
        self.name = "; ".join(f"{t.name}: {t.weight!r} {callable_name(t.function)}" for t in self.terms)
        self.term = torch.cat([torch.full((len(t.points),), i, device="cpu") for i, t in enumerate(self.terms)])
        self.points: Inputs = self.terms[0].points if len(self.terms) == 1 else _side_by_side(self.terms)

    def bind(self, inputs: Stored, targets: Tensor | None, preprocess: Callable[[Any], Any] | None) -> Binding:
        """Return what an objective evaluates: the residuals of each point."""
        if targets is None or preprocess is not None:
            raise UserError("loss: residuals are given with their own points; use Objective.from_residual")
        if len(self.terms) == 1:
            return Binding(inputs, targets, self.terms[0].residuals, None)
        assert isinstance(inputs, Parts), "several terms keep their points in parts"
        number = targets.to(inputs.device)
        return Binding(Parts((*inputs.tensors, number)), targets, self._residuals, None)

    never_negative = True

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return |r_i|^2, (n,)."""
        return outputs.square().sum(1)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> 2 u."""
        return lambda u: 2.0 * u

    has_spread = True

    def spread(self, outputs: Tensor, targets: Tensor, noise: Tensor) -> Tensor:
        """Return S e with S S' = 2 I."""
        return math.sqrt(2.0) * noise

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return c_i = weight_t s_i K / (the sum of s over the points of term t)."""
        if len(self.terms) == 1 and weights is None and self.terms[0].weight == 1.0:
            return None
        number = targets.cpu()
        s = torch.ones(len(number), dtype=torch.float64, device="cpu") if weights is None else weights
        sums = torch.zeros(len(self.terms), dtype=torch.float64, device="cpu").index_add_(0, number, s)
        for term, total in zip(self.terms, sums.tolist(), strict=True):
            if not total > 0:
                raise DataError(f"residual {term.name!r}: none of the {len(number)} points is of it; draw more points")
        own = torch.tensor([term.weight for term in self.terms], dtype=torch.float64, device="cpu")
        return (own / sums)[number] * s * len(number)

    def covering(self, targets: Tensor, places: Tensor) -> Tensor:
        """Return `places` among samples with these `targets`, with the first place of each term that they lack."""
        number, taken = self.prepare(targets, torch.float64).cpu(), places.cpu()
        lacking = [index for index in range(len(self.terms)) if not bool((number[taken] == index).any())]
        firsts = [int(found[0]) for index in lacking if len(found := (number == index).nonzero())]
        return torch.cat([taken, torch.tensor(firsts, dtype=torch.int64, device="cpu")])

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers of the terms, (n,)."""
        return targets.reshape(len(targets)).to(torch.int64)

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        if outputs.ndim != 2:
            raise ModelError(f"residual: shape {tuple(outputs.shape)}; return (n,) or (n, M) residuals")

    def _residuals(self, model: nn.Module, x: Inputs) -> Tensor:
        """Return the residuals of points of several terms, (n, M), M the most that any term here has."""
        assert isinstance(x, Parts), "several terms keep their points in parts"
        *parts, number = x.tensors
        rows, found, first = [], [], 0
        for index, term in enumerate(self.terms):
            count = 1 if isinstance(term.points, Tensor) else len(term.points.tensors)
            own, first = parts[first : first + count], first + count
            mine = (number == index).nonzero().flatten()
            if len(mine):
                rows.append(mine)
                picked = [tensor[mine] for tensor in own]
                names = None if isinstance(term.points, Tensor) else term.points.names
                points = picked[0] if isinstance(term.points, Tensor) else Parts(picked, names)
                found.append(term.residuals(model, points))
        width = max(self.width(model), *(part.shape[1] for part in found))
        padded = [F.pad(part, (0, width - part.shape[1])) for part in found]
        return padded[0] if len(padded) == 1 else torch.cat(padded)[torch.cat(rows).argsort()]

    _widest: int | None = None

    def width(self, model: nn.Module) -> int:
        """Return M, found at one point of each term: chunks with points of one term alone have it, too."""
        if self._widest is None:
            self._widest = 0
            parameter = next(model.parameters())
            for term in self.terms:
                point = term.points[:1].to(parameter.device)
                point = (
                    _cast(point, parameter.dtype)
                    if isinstance(point, Tensor)
                    else point.map(lambda tensor: _cast(tensor, parameter.dtype))
                )
                self._widest = max(self._widest, term.residuals(model, point).shape[1])
        return self._widest


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _term(name: str, entry: Any) -> Term:
    if not isinstance(entry, tuple | list) or len(entry) not in (2, 3):
        raise SettingError(
            "residual", name, f"is {kind_of(entry)}", "give (function, points) or (function, points, weight)"
        )
    function, points, weight = entry if len(entry) == 3 else (*entry, 1.0)
    if isinstance(function, type) or not callable(function):
        raise SettingError("residual", name, f"is {kind_of(function)}", "give a function (model, points) -> residuals")
    if points is None:
        raise SettingError("points", None, f"residual {name!r} has none", "give a tensor (n, d) of collocation points")
    weight = finite_number(f"weight of {name!r}", weight, "1.0")
    inputs = as_inputs(points)
    if isinstance(inputs, LazyRows) or not len(inputs):
        raise DataError(f"points: residual {name!r} has none in memory; give a tensor (n, d)")
    return Term(str(name), function, inputs, weight)


def _side_by_side(terms: tuple[Term, ...]) -> Parts:
    """Return the points of all terms, one term after the other, each with parts of its own: zeros for other terms."""
    total, columns, first = sum(len(term.points) for term in terms), [], 0
    for term in terms:
        for tensor in (term.points,) if isinstance(term.points, Tensor) else term.points.tensors:
            column = tensor.new_zeros(total, *tensor.shape[1:])
            column[first : first + len(tensor)] = tensor
            columns.append(column)
        first += len(term.points)
    return Parts(columns)
