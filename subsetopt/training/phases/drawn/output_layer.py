"""Evaluations that solve for the output layer: the loss is convex in it, and its features are at hand.

F(u, v) with v the output layer and u all before it. At every u that a solver tries, v moves towards its best by a few
steps of L-BFGS on the features of u, for a small part of what an evaluation costs. The solver then goes along the
valley of v(u), which curves far less than F does (variable projection: Golub and Pereyra 1973).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.objective import Objective
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.corrected import CorrectedObjective
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.protocol import Preconditioner, Purpose, SmoothObjective
from subsetopt.objective.tally import note_flops
from subsetopt.solvers.lbfgs import LBFGS
from subsetopt.solvers.preconditioned_pairs import PreconditionedPairs
from subsetopt.training.context import RunContext

ACCURACY = 0.1  # of the gradient's norm where the solver is: what is left of it in the output layer
STEPS = 10  # at most, of one evaluation
DEAREST = 0.25  # of a gradient: an output layer that costs more in each step is not solved for
SOLVER = LBFGS(memory=STEPS, gtol=0.0, max_trials=5)

Piece = tuple[Tensor, Any]
"""Features (n, d) of a chunk, and its targets."""

Call = tuple[nn.Linear, Tensor, Tensor]
"""A layer, and input and output of one call of it."""


@dataclass(frozen=True)
class OutputLayer:
    """The linear layer that makes the outputs: places of its weight and bias (None without) in the flat model."""

    module: nn.Linear
    weight: int
    bias: int | None

    @classmethod
    def of(cls, objective: Objective) -> OutputLayer | None:
        """Return that of a model which ends in one, called once with features (n, d) and not all there is."""
        flat = objective.flat
        if flat.is_called_by_loss or not len(objective.edges):
            return None
        start, stop = objective.edges[0]
        seen: list[Call] = []
        x, _ = objective.piece(start, min(stop, start + 2))
        objective.meter.charge("forward", min(2, objective.n_samples), "calibration")
        with flat.exclusive, torch.no_grad(), _calls([m for m in flat.modules() if type(m) is nn.Linear], seen):
            outputs = flat.call(flat.views(flat.initial()), x, "deterministic")
        found = [(module, h) for module, h, z in seen if z is outputs]
        if len(found) != 1 or sum(module is found[0][0] for module, *_ in seen) != 1:
            return None
        module, h = found[0]
        places = {slots[0]: place for place, slots in enumerate(flat.slots) if len(slots) == 1}
        weight, bias = places.get((module, "weight")), places.get((module, "bias"))
        whole = h.dim() == 2 and weight is not None and (module.bias is None) == (bias is None)
        alone = len(flat.shapes) == 1 + (bias is not None)
        same = torch.equal(outputs, F.linear(h, module.weight, module.bias))
        return cls(module, weight, bias) if weight is not None and whole and same and not alone else None

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return self.module.weight.numel() + (0 if self.module.bias is None else self.module.bias.numel())

    def take(self, parts: list[Tensor]) -> Tensor:
        """Return its weight and then its bias, of all parameters `parts`, in a new vector."""
        places = [self.weight] if self.bias is None else [self.weight, self.bias]
        return torch.cat([parts[place].detach().flatten() for place in places])

    def put(self, v: Tensor, parts: list[Tensor]) -> None:
        """Write what `take` returns into `parts`."""
        weight, bias = self.split(v)
        parts[self.weight].copy_(weight)
        if self.bias is not None and bias is not None:
            parts[self.bias].copy_(bias)

    def split(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight (o, d) and the bias (o,) in v."""
        shape = self.module.weight.shape
        return v[: shape.numel()].view(shape), None if self.bias is None else v[shape.numel() :]


@dataclass
class _LayerLoss:
    """The objective as a function of the output layer alone; its first evaluation is part of that of the whole."""

    of: SettledObjective
    pieces: list[Piece]
    slope: Tensor
    evaluations: int = 0
    identity: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return self.of.dtype

    @property
    def device(self) -> torch.device:
        return self.of.device

    def value_and_gradient(self, v: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        inner, layer = self.of.inner, self.of.layer
        leaf, total = v.detach().clone().requires_grad_(), torch.zeros((), dtype=torch.float64, device=v.device)
        gradient = torch.zeros_like(v)
        for h, y in self.pieces:
            part = inner.loss.total(F.linear(h.detach(), *layer.split(leaf)), y, total.dtype) / inner.n_samples
            gradient += torch.autograd.grad(part, leaf)[0]
            total += part.detach()
        inner.ranks.sum_(gradient, total)
        if self.evaluations:
            note_flops(4 * inner.n_samples * len(v))
        self.evaluations += 1
        gradient += inner.l2 * v + self.slope
        square = torch.dot(v, v).to(total)
        return total + 0.5 * inner.l2 * square + torch.dot(self.slope, v).to(total), gradient


@dataclass
class SettledObjective(CorrectedObjective):
    """A `CorrectedObjective` whose evaluation at w first solves for the output layer, and writes that **into w**.

    `value_and_gradient` is that of the point which w is afterwards. The layer is left where no step lowers the loss, or
    its gradient is below `tolerance`. Graphs of chunks are kept in between as far as `linearisation_memory` goes; the
    others are made again, and charged.
    """

    layer: OutputLayer = field(kw_only=True)
    tolerance: float = field(default=0.0, kw_only=True)
    estimate: Preconditioner | None = field(default=None, kw_only=True)

    def preconditioner(self, kind: str) -> Preconditioner:
        """Return factors that have seen no samples yet; the output layer will use what they learn."""
        self.estimate = super().preconditioner(kind)
        return self.estimate

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Move w's output layer, in place, and return the corrected value and its gradient (P,) there."""
        inner, flat = self.inner, self.inner.flat
        inner.meter.charge("gradient", inner.n_samples, purpose)
        solved: list[Tensor] = []  # where memory runs out after that, other ranks are not asked again
        with flat.exclusive, exact_arithmetic(inner.device, inner.allow_tf32):
            value, gradient = inner.samples.within_memory(lambda: self._sums(w, purpose, solved))
            inner.ranks.sum_(gradient, value)
        gradient.add_(w, alpha=inner.l2).add_(self.slope)
        square = torch.dot(w, w).to(value)
        return self.corrected(value + 0.5 * inner.l2 * square, w), gradient

    def _sums(self, w: Tensor, purpose: Purpose, solved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what this rank's samples contribute to loss and gradient, with the layer of all put into w."""
        inner, flat, layer = self.inner, self.inner.flat, self.layer
        kept = int(inner.samples.linearisation_memory / max(1.0, inner.samples.bytes_per_sample))
        leaves, gradient = flat.leaves(w.clone()), torch.zeros_like(w)
        for leaf, view in zip(leaves, flat.views(gradient), strict=True):
            leaf.grad = view
        seen: list[Call] = []
        with flat.at(leaves, "deterministic") as evaluate, _calls([layer.module], seen):
            pieces, count = [], 0
            for x, y in inner.samples:
                count += len(y)
                with torch.set_grad_enabled(count <= kept):
                    outputs_of(evaluate, x)
                pieces.append((seen.pop()[1], y))
            if not solved:
                again = inner.ranks.total(sum(len(y) for h, y in pieces if not h.requires_grad))
                if again:
                    inner.meter.charge("forward", again, purpose)
                solved.append(self._solved(layer.take(flat.views(w)), pieces))
            (v,) = solved
            layer.put(v, flat.views(w))
            leaf = v.clone().requires_grad_()
            total = torch.zeros((), dtype=torch.float64, device=w.device)
            body = [each for place, each in enumerate(leaves) if place not in (layer.weight, layer.bias)]
            for (x, y), (h, _) in zip(inner.samples, pieces, strict=True):
                if not h.requires_grad:
                    outputs_of(evaluate, x)
                    h = seen.pop()[1]
                part = inner.loss.total(F.linear(h, *layer.split(leaf)), y, total.dtype) / inner.n_samples
                part.backward(inputs=[*body, leaf])
                total += part.detach()
        if leaf.grad is not None:
            layer.put(leaf.grad, flat.views(gradient))
        return total, gradient

    def _solved(self, v: Tensor, pieces: list[Piece]) -> Tensor:
        """Return the output layer after a few steps from v, preconditioned by its K-FAC block if there is one."""
        slope = self.layer.take(self.inner.flat.views(self.slope))
        loss = cast(SmoothObjective, _LayerLoss(self, pieces, slope))
        state: Any = SOLVER.init(loss, v)
        if (inverse := self._inverse()) is not None:
            memory = PreconditionedPairs.around(state.memory, inverse, state.gradient)
            state = replace(state, memory=memory)
        for _ in range(STEPS):
            if state.gradient_l2 <= self.tolerance or SOLVER.terminate(state) is not None:
                break
            state = SOLVER.step(loss, state)
        return cast(Tensor, state.w)

    def _inverse(self) -> Callable[[Tensor], Tensor] | None:
        if not isinstance(self.estimate, Kfac):
            return None
        return self.estimate.layer_inverse(self.layer.weight, self.inner.l2)


def layer_to_solve_for(objective: Objective, solver: object, run: RunContext) -> OutputLayer | None:
    """Return the output layer where solving for it is possible and cheap, and `solver` takes what it writes into w."""
    if not isinstance(solver, LBFGS) or solver.shard_memory:
        return None
    layer = OutputLayer.of(objective)
    if any(run.ranks.agree(layer is None)):
        return None
    dear = layer is not None and run.model.ledger.price("flops", 4 * layer.size * objective.n_samples) > DEAREST * (
        run.model.ledger.price("gradient", objective.n_samples)
    )
    return None if dear else layer


def corrected_by(
    inner: Objective, slope: Tensor, origin: Tensor, number: int, layer: OutputLayer | None
) -> CorrectedObjective:
    """Return f(w) + slope·(w - origin), f = `inner`, with its output layer solved for if there is a `layer`."""
    if layer is None:
        return CorrectedObjective(inner, slope, origin, number)
    return SettledObjective(inner, slope, origin, number, layer=layer)


def settle(objective: object, state: Any) -> None:
    """Tell an objective that solves for the output layer how well to do so in the next step from `state`."""
    if isinstance(objective, SettledObjective):
        objective.tolerance = ACCURACY * state.gradient_l2
        if state.factors is not None:
            objective.estimate = state.factors.estimate


@contextmanager
def _calls(modules: Sequence[nn.Linear], seen: list[Call]) -> Iterator[None]:
    """Note the calls of `modules` made inside in `seen`."""

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append((cast(nn.Linear, module), inputs[0], output))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield
