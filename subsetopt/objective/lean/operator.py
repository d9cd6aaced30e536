"""Operators recorded so that a Hessian product goes through each of them twice and no term is added up on its own.

By double backward a product first runs along the recorded backward pass in reverse, which carries changes of parameters
and activations forward (Pearlmutter 1994), then along the forward pass in reverse, with changes of the derivatives. An
operator has to do with both: the changes that it saw on the way forward belong to its derivatives on the way back. Each
node alone would hand its part over to autograd, to be added to the other one's in a pass of its own. Here the first
node leaves its part to the second: matrix products add to what is there, sums over keys and channels are taken once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied, applied_plainly

Parts = Sequence[Tensor | None]
"""Tensors of all inputs, or derivatives in them, or changes of these; None for none."""


@dataclass
class Evaluated:
    """An output, what every later pass gets, and `once`, which recording a Hessian needs and nothing after it.

    An output that is kept may not be a view.
    """

    output: Tensor
    kept: Parts
    once: Parts = ()


class Operator:
    """The four passes of an operator y = f(x_1, ...) with one output; no tensor they meet has a graph.

    `needs` says in which inputs derivatives are asked for; `curved`, whether second derivatives follow.
    """

    def evaluate(self, *inputs: Any) -> Evaluated:
        """Return y, and what is kept."""
        raise NotImplementedError

    def gradients(
        self, kept: Parts, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        """Return the derivatives in the inputs for an incoming `grad`; where `curved` also what changes of them need.

        `once` is empty unless `curved`.
        """
        raise NotImplementedError

    def change(self, kept: Parts, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        """Return how y changes with the inputs, and where `curved` what `gradient_changes` is to know of that."""
        raise NotImplementedError

    def gradient_changes(self, kept: Parts, at_point: Parts, seen: Parts, grad: Tensor, needs: Sequence[bool]) -> Parts:
        """Return how `gradients` changes where its incoming derivative changes by `grad`; `seen` is from `change`."""
        raise NotImplementedError


def recorded(operator: Operator, in_cotangent_only: bool, *inputs: Tensor | None) -> Tensor:
    """Return the operator's output; its second derivatives are those of `operator`, and there are no third ones."""
    return cast(Tensor, applied(_Forward, operator, in_cotangent_only, *inputs)[0])


@dataclass
class _Shared:
    """What the two nodes of one call leave to each other."""

    once: Parts | None = ()
    pending: tuple[Parts, Parts] | None = None
    """(at_point, seen) of the product under way, from the backward node to the forward node."""


class _Forward(torch.autograd.Function):
    """inputs -> (output, mark).

    The mark is no result. Its gradient comes from the backward node, so that autograd calls this node after that one.
    """

    @staticmethod
    def forward(ctx: Any, operator: Operator, in_cotangent_only: bool, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        evaluated = operator.evaluate(*inputs)
        output = evaluated.output
        if output._is_view():
            # Of a node with two outputs a view may not be changed in place, as activations after a layer often do.
            output = output.data
        mark = output.new_empty(0)
        ctx.save_for_backward(mark, *evaluated.kept)
        ctx.operator, ctx.in_cotangent_only = operator, in_cotangent_only
        ctx.shared = _Shared(() if in_cotangent_only else evaluated.once)
        ctx.like = output.shape, output.dtype, output.device
        ctx.set_materialize_grads(False)
        return output, mark

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, from_backward = grad_outputs
        mark, *saved = ctx.saved_tensors
        kept = [None if part is None else part.detach() for part in saved]
        operator, shared, needs = ctx.operator, ctx.shared, ctx.needs_input_grad[2:]
        if grad is None and from_backward is None:
            return (None,) * (2 + len(needs))
        if grad is None:
            shape, dtype, device = ctx.like
            grad = torch.zeros(shape, dtype=dtype, device=device)
        if torch.is_grad_enabled():
            mark = mark.detach() if ctx.in_cotangent_only else mark
            return None, None, *applied_plainly(_Backward, operator, shared, needs, mark, grad, *kept)
        if from_backward is None or shared.pending is None:
            return None, None, *operator.gradients(kept, (), grad, needs, False)[0]
        at_point, seen = shared.pending
        shared.pending = None
        return None, None, *operator.gradient_changes(kept, at_point, seen, grad, needs)


class _Backward(torch.autograd.Function):
    """(mark, incoming derivative) -> derivatives in the inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        operator: Operator,
        shared: _Shared,
        needs: Sequence[bool],
        mark: Tensor,
        grad: Tensor,
        *kept: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.curved = ctx.needs_input_grad[3]
        once = shared.once if ctx.curved else ()
        if once is None:
            raise RuntimeError("an operator is differentiated twice while its graph is recorded")
        # Freed where it took memory.
        shared.once = None if once else shared.once
        gradients, at_point = operator.gradients(kept, once, grad, needs, ctx.curved)
        ctx.save_for_backward(*kept, *at_point)
        ctx.operator, ctx.shared, ctx.kept = operator, shared, len(kept)
        ctx.set_materialize_grads(False)
        return tuple(gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(part is None for part in changes):
            return tuple(None for _ in range(5 + ctx.kept))
        saved = ctx.saved_tensors
        kept, at_point = saved[: ctx.kept], saved[ctx.kept :]
        output, seen = ctx.operator.change(kept, at_point, changes, ctx.curved)
        mark = None
        if ctx.curved:
            ctx.shared.pending = at_point, seen
            mark = (at_point or kept)[0].new_empty(0)
        return None, None, None, mark, output, *(None for _ in range(ctx.kept))
