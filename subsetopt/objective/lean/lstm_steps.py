"""One layer of an LSTM through time: values, derivatives, and the changes of both along a direction.

Gates (i, f, g, o) = (s, s, tanh, s)(a) with a_t = W x_t + U h_{t-1} + b; c_t = f c_{t-1} + i g; h_t = o tanh(c_t).
Tensors are (T, n, ...) with the four gates side by side in the last axis. All that does not follow from the step
before or after is done for all steps at once, matrix products among it. Changes follow Pearlmutter's R operator (1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_logistic_backward, _tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input


@dataclass
class Weights:
    """W (4H, I), U (4H, H) and b (4H,)."""

    input: Tensor
    hidden: Tensor
    bias: Tensor | None


@dataclass
class Values:
    """What every later pass needs of the forward pass: inputs x, states h_{-1} to h_T (T + 1, n, H), and with a for the
    pre-activations slopes = (dc/da_i, dc/da_f, dc/da_g, dh/da_o), keep = dc_t/dc_{t-1} = f and open = dh/dc =
    o (1 - tanh^2 c)."""

    x: Tensor
    h: Tensor
    slopes: Tensor
    keep: Tensor
    open: Tensor

    @property
    def before(self) -> Tensor:
        """h_{t-1} of each step."""
        return self.h[:-1]


@dataclass
class Once:
    """What else second derivatives need of the forward pass, until the backward pass is recorded: gates and tanh c."""

    gates: Tensor
    tanh_c: Tensor


@dataclass
class Errors:
    """What the backward pass leaves: errors in a, and what changes of a and c are multiplied with in changes of these.

    own: of each gate's error with its a; crossed: of that of i with a_g, and of g with a_i; kept: of f with c_{t-1},
    and of dc_{t-1} with a_f; opened: of o with c, and of dc with a_o; bent: of dc with c.
    """

    a: Tensor
    own: Tensor
    crossed: Tensor
    kept: Tensor
    opened: Tensor
    bent: Tensor


@dataclass
class Direction:
    """Changes of inputs and weights; None for none. Inputs are x, h_{-1} and c_{-1}."""

    x: Tensor | None
    h: Tensor | None
    c: Tensor | None
    weights_input: Tensor | None
    weights_hidden: Tensor | None
    bias: Tensor | None


@dataclass
class Changes:
    """Changes of a (T, n, 4H), of h and of c (T + 1, n, H), beginning with those of the first states."""

    a: Tensor
    h: Tensor
    c: Tensor


@dataclass
class Gradients:
    """Derivatives in x, the first states and the weights; those not asked for are None."""

    x: Tensor | None
    h: Tensor
    c: Tensor
    weights_input: Tensor | None
    weights_hidden: Tensor | None
    bias: Tensor | None


def evaluate(x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> tuple[Values, Once, Tensor]:
    """Return the values for x (T, n, I) from the first states h and c (n, H), and the last c.

    Steps are written out, gates and all, while they are in the cache: torch's own kernel would be faster through time,
    but leaves the states alone, from which gates follow by another product of matrices. With s_g the logistic function
    of -2 a_g, g = 1 - 2 s_g: one call gives all gates of a step, for less than tanh takes alone.
    """
    width = h.shape[-1]
    scale = h.new_ones(4 * width)
    scale[2 * width : 3 * width] = -2
    bias = None if weights.bias is None else weights.bias * scale
    gates = _times(x, weights.input * scale[:, None], bias)
    hs, cs = gates.new_empty(len(x) + 1, *h.shape), gates.new_empty(len(x) + 1, *h.shape)
    hs[0], cs[0] = h, c
    tanh_c = torch.empty_like(hs[1:])
    transposed = (weights.hidden * scale[:, None]).t()
    i, f, g, o = gates.split(width, 2)
    for each, i_t, f_t, g_t, o_t, h_before, c_before, h_t, c_t, tanh_t in zip(
        *(part.unbind(0) for part in (gates, i, f, g, o, hs[:-1], cs[:-1], hs[1:], cs[1:], tanh_c)), strict=True
    ):
        each.addmm_(h_before, transposed).sigmoid_()
        torch.addcmul(i_t, i_t, g_t, value=-2, out=c_t).addcmul_(f_t, c_before)
        torch.mul(o_t, torch.tanh(c_t, out=tanh_t), out=h_t)
    g.mul_(-2).add_(1)
    slopes = torch.empty_like(gates)
    of_i, of_f, of_g, of_o = slopes.split(width, 2)
    _logistic_backward(g, i, grad_input=of_i)
    _logistic_backward(cs[:-1], f, grad_input=of_f)
    _tanh_backward(i, g, grad_input=of_g)
    _logistic_backward(tanh_c, o, grad_input=of_o)
    open_ = torch.ops.aten.tanh_backward(o, tanh_c)
    return Values(x, hs, slopes, f.contiguous(), open_), Once(gates, tanh_c), cs[-1].clone()


def propagate(to_h: Tensor, to_c: Tensor | None, values: Values, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Return the errors in a, and those in h and c that reach each step, for incoming `to_h` (T, n, H) and `to_c`.

    Errors in h and c have T + 1 steps, the first of them being those of the first states.
    """
    steps, samples, width = to_h.shape
    errors = torch.empty_like(values.slopes)
    in_h, in_c = to_h.new_empty(steps + 1, samples, width), to_h.new_empty(steps + 1, samples, width)
    later_c = torch.zeros_like(to_h[0]) if to_c is None else to_c
    given, keep, opened = to_h.unbind(0), values.keep.unbind(0), values.open.unbind(0)
    rows, hs, cs = errors.unbind(0), in_h.unbind(0), in_c.unbind(0)
    (three, one), (slopes_of_c, slopes_of_h) = _of_c_and_h(errors), _of_c_and_h(values.slopes)
    for t in range(steps - 1, -1, -1):
        if t == steps - 1:
            hs[t + 1].copy_(given[t])
        else:
            torch.addmm(given[t], rows[t + 1], weights.hidden, out=hs[t + 1])
        torch.addcmul(later_c, hs[t + 1], opened[t], out=cs[t + 1])
        torch.mul(slopes_of_c[t], cs[t + 1][:, None], out=three[t])
        torch.mul(slopes_of_h[t], hs[t + 1], out=one[t])
        later_c = torch.mul(cs[t + 1], keep[t])
    torch.mm(rows[0], weights.hidden, out=hs[0])
    cs[0].copy_(later_c)
    return errors, in_h, in_c


def _of_c_and_h(gates: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the gates (T, n, 4H) of each step that act on c, (n, 3, H), and the one that acts on h, (n, H)."""
    apart = gates.unflatten(2, (4, -1))
    return apart[:, :, :3].unbind(0), apart[:, :, 3].unbind(0)


def bend(errors: Tensor, in_h: Tensor, in_c: Tensor, values: Values, once: Once) -> Errors:
    """Return what second derivatives need of a backward pass."""
    width = in_h.shape[-1]
    i, f, g, o = once.gates.split(width, 2)
    dh, dc = in_h[1:], in_c[1:]
    # e (1 - 2 s) of logistic gates, -2 e g of the other
    own = torch.addcmul(errors, errors, once.gates, value=-2)
    torch.mul(errors[..., 2 * width : 3 * width], g, out=own[..., 2 * width : 3 * width]).mul_(-2)
    aten = torch.ops.aten
    to_o = aten.tanh_backward(dh, once.tanh_c)
    crossed = aten.tanh_backward(aten.sigmoid_backward(dc, i), g)
    bent = torch.mul(to_o, o).mul_(once.tanh_c).mul_(-2)
    return Errors(errors, own, crossed, aten.sigmoid_backward(dc, f), aten.sigmoid_backward(to_o, o), bent)


def change(direction: Direction, values: Values, weights: Weights) -> Changes:
    """Return how the values change along a direction."""
    steps, samples, width = values.open.shape
    a = torch.zeros_like(values.slopes) if direction.bias is None else direction.bias.expand_as(values.slopes).clone()
    rows = a.view(-1, a.shape[-1])
    for vectors, matrix in (
        (direction.x, weights.input),
        (values.x, direction.weights_input),
        (values.before, direction.weights_hidden),
    ):
        if vectors is not None and matrix is not None:
            rows.addmm_(vectors.reshape(-1, vectors.shape[-1]), matrix.t())
    h, c = a.new_zeros(steps + 1, samples, width), a.new_zeros(steps + 1, samples, width)
    for first, given in ((h, direction.h), (c, direction.c)):
        if given is not None:
            first[0] = given
    transposed, hs, cs, slopes = weights.hidden.t(), h.unbind(0), c.unbind(0), values.slopes.unbind(0)
    keep, opened = values.keep.unbind(0), values.open.unbind(0)
    scaled = torch.empty_like(slopes[0])
    parts = scaled.view(samples, 4, width)
    of_c, of_h = parts[:, :3], parts[:, 3]
    for t, of_a in enumerate(a.unbind(0)):
        if t or direction.h is not None:
            of_a.addmm_(hs[t], transposed)
        torch.mul(of_a, slopes[t], out=scaled)
        torch.sum(of_c, 1, out=cs[t + 1]).addcmul_(keep[t], cs[t])
        torch.addcmul(of_h, opened[t], cs[t + 1], out=hs[t + 1])
    return Changes(a, h, c)


def propagate_change(
    to_h: Tensor | None,
    to_c: Tensor | None,
    direction: Direction,
    changes: Changes,
    errors: Errors,
    values: Values,
    weights: Weights,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how errors in a, and in the first states, change: `to_h` and `to_c` are the changes of what comes in."""
    steps, _, width = values.open.shape
    a_i, a_f, a_g, a_o = changes.a.split(width, 2)
    of_a = changes.a * errors.own
    of_i, of_f, of_g, of_o = of_a.split(width, 2)
    of_i.addcmul_(errors.crossed, a_g)
    of_g.addcmul_(errors.crossed, a_i)
    of_f.addcmul_(errors.kept, changes.c[:-1])
    of_o.addcmul_(errors.opened, changes.c[1:])
    of_c = (errors.opened * a_o).addcmul_(errors.bent, changes.c[1:])
    of_earlier_c = (errors.kept * a_f).unbind(0)
    incoming = _incoming(to_h, direction, errors, values)
    given, earlier = incoming[1:], incoming[0]
    later_c = torch.zeros_like(values.open[0]) if to_c is None else to_c
    keep, opened, rows, given_each = values.keep.unbind(0), values.open.unbind(0), of_a.unbind(0), given.unbind(0)
    (three, one), (slopes_of_c, slopes_of_h), in_c = _of_c_and_h(of_a), _of_c_and_h(values.slopes), of_c.unbind(0)
    for t in range(steps - 1, -1, -1):
        dh = given_each[t] if t == steps - 1 else torch.addmm(given_each[t], rows[t + 1], weights.hidden)
        dc = in_c[t].add_(later_c).addcmul_(opened[t], dh)
        three[t].addcmul_(slopes_of_c[t], dc[:, None])
        one[t].addcmul_(slopes_of_h[t], dh)
        later_c = torch.addcmul(of_earlier_c[t], keep[t], dc)
    return of_a, torch.addmm(earlier, of_a[0], weights.hidden), later_c


def _incoming(to_h: Tensor | None, direction: Direction, errors: Errors, values: Values) -> Tensor:
    """Return the changes of derivatives in h_{-1} to h_T (T + 1, n, H), but for those through U itself."""
    steps, samples, width = values.open.shape
    if direction.weights_hidden is None:
        incoming = values.open.new_zeros(steps + 1, samples, width)
    else:
        incoming = values.open.new_empty(steps + 1, samples, width)
        incoming[steps] = 0
        torch.mm(errors.a.view(-1, 4 * width), direction.weights_hidden, out=incoming[:steps].view(-1, width))
    if to_h is not None:
        incoming[1:].add_(to_h)
    return incoming


def gather(
    errors: Tensor, first: tuple[Tensor, Tensor], values: Values, weights: Weights, needs: tuple[bool, ...]
) -> Gradients:
    """Return the derivatives in inputs and weights from the errors in a; `needs` are x, W, U, b."""
    rows = errors.view(-1, errors.shape[-1])
    x, before = values.x.reshape(len(rows), -1), values.before.reshape(len(rows), -1)
    return Gradients(
        (rows @ weights.input).view(values.x.shape) if needs[0] else None,
        *first,
        rows.t() @ x if needs[1] else None,
        rows.t() @ before if needs[2] else None,
        rows.sum(0) if needs[3] else None,
    )


def add_change(into: Gradients, direction: Direction, changes: Changes, errors: Errors) -> None:
    """Add what the change of inputs and weights themselves has to do with the derivatives."""
    rows = errors.a.view(-1, errors.a.shape[-1])
    if into.x is not None and direction.weights_input is not None:
        into.x.view(len(rows), -1).addmm_(rows, direction.weights_input)
    if into.weights_input is not None and direction.x is not None:
        into.weights_input.addmm_(rows.t(), direction.x.reshape(len(rows), -1))
    if into.weights_hidden is not None:
        into.weights_hidden.addmm_(rows.t(), changes.h[:-1].reshape(len(rows), -1))


def _times(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    result = rows @ matrix.t() if bias is None else torch.addmm(bias, rows, matrix.t())
    return result.view(*x.shape[:-1], -1)
