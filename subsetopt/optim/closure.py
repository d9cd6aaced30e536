"""A closure over parameters as a function of one flat vector, agreed upon by all ranks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError, UserError
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.protocol import Linearisation, Purpose
from subsetopt.optim.flat import FlatParameters
from subsetopt.optim.products import ClosureLinearisation
from subsetopt.solvers.inner_products import dot

Closure = Callable[[], Any]

_RANKS_REMEDY = (
    "wrap the model in DistributedDataParallel, or give process_group=None where ranks train separate models"
)


@dataclass(frozen=True)
class ClosureTerms:
    """What a parameter group asks beside the closure: minimise sign * loss + weight_decay / 2 ||w||^2.

    `infeasible` are exceptions of the closure that count as an infinite loss.
    """

    weight_decay: float = 0.0
    maximize: bool = False
    infeasible: tuple[type[BaseException], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the closure is minimised as it is."""
        return not (self.maximize or self.weight_decay)

    def applied(self, loss: Tensor, gradient: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of what is minimised."""
        if self.maximize:
            loss, gradient = -loss, -gradient
        if self.weight_decay:
            loss = loss + 0.5 * self.weight_decay * dot(w, w).to(loss)
            gradient = gradient.add(w, alpha=self.weight_decay)
        return loss, gradient

    def product(self, hvp: Tensor, v: Tensor) -> Tensor:
        """Return the Hessian product of what is minimised."""
        return (-hvp if self.maximize else hvp).add(v, alpha=self.weight_decay)


class TermsLinearisation:
    """Hessian products of a closure with `terms`."""

    def __init__(self, inner: ClosureLinearisation, terms: ClosureTerms) -> None:
        self._inner, self._terms = inner, terms

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v, shape (P,)."""
        return self._terms.product(self._inner.hvp(v), v)

    def ggnvp(self, v: Tensor) -> Tensor:
        """Raise `UserError`: a closure shows no model outputs."""
        return self._inner.ggnvp(v)


class ClosureObjective:
    """Loss and gradient of `closure` at w; counts its `calls`.

    On several ranks the loss is the mean over them, of which averaged gradients (DistributedDataParallel) are the
    gradient: every rank decides by the same numbers. `terms` says what is added to what the closure computes, and
    which errors of it mean a point that is not allowed. Raises `UserError` for a closure without a loss or a gradient,
    and `SettingError` on all ranks where parameters or gradients differ between them.
    """

    identity: Hashable = None  # whether the closure has become another function is found at the start of each step

    def __init__(self, flat: FlatParameters, closure: Closure, ranks: Ranks, terms: ClosureTerms | None = None) -> None:
        self.flat, self._closure, self._ranks = flat, closure, ranks
        self._terms = terms or ClosureTerms()
        self.calls = 0
        self.returned: Any = None
        self._last: Tensor | None = None
        self._loss: Tensor | None = None
        self._at: Tensor | None = None

    @property
    def size(self) -> int:
        """P."""
        return self.flat.size

    @property
    def dtype(self) -> torch.dtype:
        """That of w and of gradients."""
        return self.flat.dtype

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return self.flat.device

    def initial(self) -> Tensor:
        """Return a copy of the parameters, shape (P,)."""
        return self.flat.read()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return the loss at w."""
        return self.value_and_gradient(w, purpose)[0]

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Call the closure at w."""
        self.flat.write(w)
        before = self._stamps()
        try:
            loss = self.call()
        except self._terms.infeasible:
            if self.calls == 0 or self._ranks.size > 1:  # no step leads back from a start that is not allowed
                raise
            self.calls += 1
            return torch.full((), math.inf, dtype=accumulation_dtype(self.device), device=self.device), w * math.nan
        gradient = self.flat.gradient()
        self._check_backward(before, gradient)
        self._last = gradient
        if self._ranks.size > 1:
            loss = self._agreed(loss, w, gradient)
        self._loss, self._at = loss, w
        return self._terms.applied(loss, gradient, w)

    def call(self) -> Tensor:
        """Call the closure at the parameters as they are; return its loss, and keep in `returned` what it gave."""
        with torch.enable_grad():
            returned = self._closure()
        self.calls += 1
        loss = _scalar(returned)
        _refuse_low_precision(loss, self.dtype)
        self.returned = returned.detach() if isinstance(returned, Tensor) else returned
        return loss.reshape(()).to(self.device, accumulation_dtype(self.device))

    def linearise(self, w: Tensor) -> Linearisation:
        """Return Hessian products at w; the closure is called to record its graph."""
        if self._last is None or self._loss is None or self._at is None or not torch.equal(self._at, w):
            self.value_and_gradient(w)
        assert self._last is not None and self._loss is not None
        self.flat.write(w)
        self.calls += 1
        inner = ClosureLinearisation(self.flat, self._closure, self._ranks, float(self._loss), self._last)
        return inner if self._terms.plain else TermsLinearisation(inner, self._terms)

    def _stamps(self) -> list[tuple[Tensor | None, int]]:
        """Return each gradient, held so that no new tensor can take its place, with the count of its changes."""
        gradients = [p.grad for p in self.flat.parameters]
        return [(g, -1 if g is None else g._version) for g in gradients]

    def _check_backward(self, before: list[tuple[Tensor | None, int]], gradient: Tensor) -> None:
        """Refuse a closure that leaves gradients as they were: none at all, or those of other parameters."""
        after = self._stamps()
        if any(g is not h or old != new for (g, old), (h, new) in zip(before, after, strict=True)):
            return
        missing = all(g is None for g, _ in after)
        stale = self._last is not None and bool(gradient.any()) and torch.equal(gradient, self._last)
        if missing or stale:
            raise UserError("closure: it computes no gradient; call loss.backward() in it before it returns the loss")

    def _agreed(self, loss: Tensor, w: Tensor, gradient: Tensor) -> Tensor:
        bits = loss.double().reshape(1).view(torch.int64)
        fingerprints = torch.cat([bits, _fingerprint(w), _fingerprint(gradient)])
        table = self._ranks.exchange(fingerprints).cpu()
        for column, what in ((1, "parameters"), (2, "gradients")):
            if len(set(table[:, column].tolist())) > 1:
                ranks = f"{what} differ between the {self._ranks.size} ranks"
                raise SettingError("process_group", "default", ranks, _RANKS_REMEDY)
        return table[:, 0].contiguous().view(torch.float64).mean().to(loss)


def usable(closure: Closure | None, optimizer: Optimizer, device: torch.device) -> Closure:
    """Return `closure` if `optimizer` can evaluate it as things stand; raises `UserError` if not."""
    # GradScaler leaves these on an optimizer that says it can scale; its own step would hide what is wrong.
    marks = [optimizer.__dict__.pop(name, None) is not None for name in ("grad_scale", "found_inf")]
    if any(marks):
        raise UserError("GradScaler: scaled gradients do not belong to the loss that is compared; train without it")
    if not callable(closure):
        raise SettingError(
            "closure", closure, "losses are evaluated several times in a step", "give a function: step(closure)"
        )
    if torch.is_autocast_enabled(device.type):
        raise UserError("autocast: its losses are too coarse for a line search; call step() outside torch.autocast")
    if torch.is_inference_mode_enabled():
        raise UserError("inference_mode: no gradients can be computed in it; call step() outside")
    return closure


def _scalar(returned: Any) -> Tensor:
    """Return what the closure gave as a tensor of one real number."""
    if not isinstance(returned, Tensor):
        if returned is None:
            raise UserError("closure: it returns None; return the loss")
        if not isinstance(returned, numbers.Real) and not hasattr(returned, "__array__"):
            raise UserError(f"closure: it returns {type(returned).__name__}; return the loss, a scalar tensor")
        returned = torch.as_tensor(returned, device="cpu")
    loss: Tensor = returned.detach()
    if loss.numel() != 1 or loss.is_complex():
        raise UserError(f"closure: it returns {loss.dtype} of shape {tuple(loss.shape)}; return one real number")
    return loss


def _refuse_low_precision(loss: Tensor, dtype: torch.dtype) -> None:
    if loss.dtype in (torch.float16, torch.bfloat16) and loss.dtype != dtype:
        raise UserError(
            f"closure: its loss is {loss.dtype} for parameters in {dtype}, too coarse for a line search; "
            "compute it without autocast"
        )


def _fingerprint(vector: Tensor) -> Tensor:
    """Return a whole number, shape (1,), equal for vectors that are equal bit by bit, however they are summed."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[vector.element_size()]
    places = torch.arange(1, vector.numel() + 1, device=vector.device)
    return (vector.contiguous().view(whole) * places).sum(dtype=torch.int64).reshape(1)
