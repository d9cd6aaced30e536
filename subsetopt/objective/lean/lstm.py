"""LSTM layers whose first and second derivatives go through time once each, by the formulas of `lstm_steps`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied, applied_plainly
from subsetopt.objective.lean.lstm_steps import (
    Changes,
    Direction,
    Errors,
    Once,
    Values,
    Weights,
    add_change,
    bend,
    change,
    evaluate,
    gather,
    propagate,
    propagate_change,
)

Outputs = tuple[Tensor, Tensor, Tensor]


def lean_lstm(args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool) -> Outputs | None:
    """Return `torch.lstm` of the same arguments, recorded leanly; None for packed data, projections and dropout."""
    if kwargs or len(args) != 9 or not isinstance(args[2], Sequence):
        return None
    input, hx, flat, biased, layers, dropout, training, both, batch_first = args
    each = (4 if biased else 2) * layers * (2 if both else 1)
    if (dropout and training) or len(flat) != each or not input.numel() or len(hx) != 2:
        return None
    x = input.transpose(0, 1) if batch_first else input
    one = 4 if biased else 2
    own = [flat[start : start + one] for start in range(0, len(flat), one)]
    h, c = [], []
    for layer in range(layers):
        outputs = []
        for way in range(2 if both else 1):
            index = layer * (2 if both else 1) + way
            w, u, *biases = own[index]
            bias = biases[0] + biases[1] if biases else None
            y, last_c, _ = applied(
                _Layer, x.flip(0) if way else x, hx[0][index], hx[1][index], w, u, bias, in_cotangent_only
            )
            h.append(y[-1])
            c.append(last_c)
            outputs.append(y.flip(0) if way else y)
        x = torch.cat(outputs, -1) if both else outputs[0]
    return x.transpose(0, 1) if batch_first else x, torch.stack(h), torch.stack(c)


@dataclass
class _State:
    """What both nodes of a layer share: everything here is detached."""

    values: Values
    weights: Weights
    once: Once | None
    """What recording needs and nothing after it: None where no Hessian is recorded, or once it is."""
    errors: Errors | None = None
    pending: tuple[Direction, Changes] | None = None
    """The direction of the product under way, from the backward node to the forward node."""


class _Layer(torch.autograd.Function):
    """(x, h, c, W, U, b) -> (states (T, n, H), last c, mark).

    The mark is no result. Its gradient comes from the backward node, so that autograd calls the forward node after it:
    what the change of the backward pass has to do with the inputs then goes through time together with what comes in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w: Tensor,
        u: Tensor,
        b: Tensor | None,
        cotangent_only: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        values, once, last_c = evaluate(x.contiguous(), h, c, Weights(w, u, b))
        mark = x.new_zeros(())
        ctx.save_for_backward(mark, *_tensors(values))
        weights = Weights(w.detach(), u.detach(), None)
        ctx.state, ctx.cotangent_only = _State(values, weights, None if cotangent_only else once), cotangent_only
        ctx.set_materialize_grads(False)
        return values.h[1:].clone(), last_c, mark

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        state: _State = ctx.state
        to_h, to_c, from_backward = grad_outputs
        values, weights, needs = state.values, state.weights, ctx.needs_input_grad
        asked = (needs[0], *needs[3:6])
        if torch.is_grad_enabled():
            mark = ctx.saved_tensors[0]
            to_h = torch.zeros_like(values.open) if to_h is None else to_h
            mark = mark.detach() if ctx.cotangent_only else mark
            return (*applied_plainly(_LayerBackward, to_h, to_c, mark, state, asked), None)
        if from_backward is None or state.pending is None or state.errors is None:
            to_h = torch.zeros_like(values.open) if to_h is None else to_h
            errors, in_h, in_c = propagate(to_h, to_c, values, weights)
            return (*_tensors(gather(errors, (in_h[0], in_c[0]), values, weights, asked)), None)
        direction, changes = state.pending
        state.pending = None
        errors, of_h, of_c = propagate_change(to_h, to_c, direction, changes, state.errors, values, weights)
        result = gather(errors, (of_h, of_c), values, weights, asked)
        add_change(result, direction, changes, state.errors)
        return (*_tensors(result), None)


class _LayerBackward(torch.autograd.Function):
    """Incoming derivatives in states and last c -> derivatives in x, h, c, W, U, b."""

    @staticmethod
    def forward(
        ctx: Any, to_h: Tensor, to_c: Tensor | None, mark: Tensor, state: _State, asked: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        errors, in_h, in_c = propagate(to_h, to_c, state.values, state.weights)
        ctx.state, ctx.curved, ctx.of_c = state, ctx.needs_input_grad[2], to_c is not None
        ctx.set_materialize_grads(False)
        if ctx.curved:
            if state.once is None:
                raise RuntimeError("an LSTM is differentiated twice while its graph is recorded")
            state.errors = bend(errors, in_h, in_c, state.values, state.once)
            state.once = None
            ctx.save_for_backward(*_tensors(state.errors))
        first = (in_h[0].clone(), in_c[0].clone())
        return tuple(_tensors(gather(errors, first, state.values, state.weights, asked)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        state: _State = ctx.state
        direction = Direction(*cotangents)
        changes = change(direction, state.values, state.weights)
        if ctx.curved:
            state.pending = direction, changes
        mark = changes.h.new_zeros(()) if ctx.curved else None
        return changes.h[1:], changes.c[-1] if ctx.of_c else None, mark, None, None


def _tensors(record: Any) -> Iterator[Tensor]:
    return (getattr(record, field.name) for field in fields(record))
