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


@dataclass
class Weights:
    """W (4H, I), U (4H, H) and b (4H,)."""

    input: Tensor
    hidden: Tensor
    bias: Tensor | None


@dataclass
class Values:
    """What the forward pass leaves: inputs x, states h_{-1} to h_T (T + 1, n, H), and with a for the pre-activations
    slopes = (dc/da_i, dc/da_f, dc/da_g, dh/da_o), keep = dc_t/dc_{t-1} = f and open = dh/dc = o (1 - tanh^2 c)."""

    x: Tensor
    h: Tensor
    c: Tensor
    gates: Tensor
    slopes: Tensor
    keep: Tensor
    open: Tensor

    @property
    def before(self) -> Tensor:
        """h_{t-1} of each step."""
        return self.h[:-1]


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


def evaluate(x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> Values:
    """Return the values for x (T, n, I) from the first states h and c (n, H)."""
    width = h.shape[-1]
    states = _states(x, h, c, weights)
    hs = torch.cat([h[None], states])
    gates = _times(x, weights.input, weights.bias)
    gates.view(-1, 4 * width).addmm_(hs[:-1].view(-1, width), weights.hidden.t())
    gates[..., : 2 * width].sigmoid_()
    gates[..., 2 * width : 3 * width].tanh_()
    gates[..., 3 * width :].sigmoid_()
    i, f, g, o = gates.split(width, 2)
    keep = f.contiguous()
    cs = torch.cat([c[None], i * g])
    for before, after, kept in zip(cs[:-1].unbind(0), cs[1:].unbind(0), keep.unbind(0), strict=True):
        after.addcmul_(kept, before)
    tanh_c = cs[1:].tanh()
    slopes = torch.empty_like(gates)
    of_i, of_f, of_g, of_o = slopes.split(width, 2)
    torch.mul(_of_logistic(i), g, out=of_i)
    torch.mul(_of_logistic(f), cs[:-1], out=of_f)
    torch.mul(_of_tanh(g), i, out=of_g)
    torch.mul(_of_logistic(o), tanh_c, out=of_o)
    return Values(x, hs, cs, gates, slopes, keep, _of_tanh(tanh_c).mul_(o))


def _states(x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> Tensor:
    """Return h_0 to h_T, by torch's own kernel, which is the fastest way through time; the gates follow from them."""
    with torch.no_grad():
        flat = [part.detach() for part in (weights.input, weights.hidden)]
        if weights.bias is not None:
            flat += [weights.bias.detach(), torch.zeros_like(weights.bias)]
        states: Tensor = torch.lstm(
            x.detach(), (h[None].detach(), c[None].detach()), flat, len(flat) == 4, 1, 0.0, False, False, False
        )[0]
        return states


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


def bend(errors: Tensor, in_h: Tensor, in_c: Tensor, values: Values) -> Errors:
    """Return what second derivatives need of a backward pass."""
    width = in_h.shape[-1]
    i, f, g, o = values.gates.split(width, 2)
    dh, dc, tanh_c = in_h[1:], in_c[1:], values.c[1:].tanh()
    own = errors.clone()
    for gate, part in ((i, 0), (f, 1), (o, 3)):
        own[..., part * width : (part + 1) * width].mul_(1 - 2 * gate)
    own[..., 2 * width : 3 * width].mul_(g).mul_(-2)
    crossed = _of_logistic(i).mul_(_of_tanh(g)).mul_(dc)
    opened = _of_logistic(o).mul_(_of_tanh(tanh_c)).mul_(dh)
    bent = (values.open * tanh_c).mul_(dh).mul_(-2)
    return Errors(errors, own, crossed, _of_logistic(f).mul_(dc), opened, bent)


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
    given = torch.zeros_like(values.open) if to_h is None else to_h
    earlier = torch.zeros_like(values.open[0])
    if direction.weights_hidden is not None:
        back = (errors.a.view(-1, 4 * width) @ direction.weights_hidden).view_as(values.open)
        earlier = back[0]
        given = torch.cat([given[:-1] + back[1:], given[-1:]])
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


def _of_logistic(s: Tensor) -> Tensor:
    return (1 - s).mul_(s)


def _of_tanh(t: Tensor) -> Tensor:
    return t.square().neg_().add_(1)
