"""Normalisation with a scale and shift per channel (BatchNorm on batch statistics, GroupNorm, InstanceNorm), whose
second derivative takes few passes over the data.

x^ = (x - mean) r, r = 1/std, over the n numbers of a set: a channel of all samples, or some channels of one sample.
Products need sums over the places of each channel and sample only: of what comes in, and of it times x^ and g. All that
follows from these is formed on small tensors, and what is left are sums of tensors scaled by channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied


class Sets(NamedTuple):
    """Over what is normalised: every channel of the whole batch (`groups` 0), or groups of channels of each sample."""

    groups: int

    def mean(self, sums: Tensor, places: int) -> Tensor:
        """Return the means over the sets from sums over places (N, C): (1, C), or (N, C) with a set's mean repeated."""
        samples, channels = sums.shape
        if not self.groups:
            return sums.sum(0, keepdim=True) / (samples * places)
        size = channels // self.groups
        return (sums.view(samples, self.groups, size).sum(2) / (size * places)).repeat_interleave(size, 1)


def channel_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, sets: Sets, eps: float, in_cotangent_only: bool
) -> Tensor | None:
    """Return the input (N, C, ...) normalised, scaled and shifted; None for what there is no rule for."""
    # A bias alone, or a set of one number, whose variance is zero, are left to torch.
    size = input.shape[2:].numel() * (input.shape[1] // sets.groups if sets.groups else len(input))
    if (weight is None and bias is not None) or size < 2 or not input.numel():
        return None
    return cast(Tensor, applied(_ChannelNorm, input, weight, bias, sets, eps, in_cotangent_only))


def lean_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.batch_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    if not training or running_mean is not None or running_var is not None or input.ndim < 2:
        return None
    return channel_norm(input, weight, bias, Sets(0), eps, in_cotangent_only)


def lean_group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.group_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        return None
    return channel_norm(input, weight, bias, Sets(num_groups), eps, in_cotangent_only)


def lean_instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.instance_norm` of the same arguments, recorded leanly; None for what there is no rule for."""
    if not use_input_stats or running_mean is not None or running_var is not None or input.ndim < 3:
        return None
    return channel_norm(input, weight, bias, Sets(input.shape[1]), eps, in_cotangent_only)


class _ChannelNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        sets: Sets,
        eps: float,
        cotangent_only: bool,
    ) -> Tensor:
        if sets.groups:
            rows = input.reshape(len(input) * sets.groups, -1)
            normal, _, rstd = torch.ops.aten.native_layer_norm(rows, [rows.shape[1]], None, None, eps)
            rstd = rstd.view(len(input), sets.groups).repeat_interleave(input.shape[1] // sets.groups, 1)
        else:
            normal, _, rstd = torch.ops.aten.native_batch_norm(input, None, None, None, None, True, 0.0, eps)
            rstd = rstd[None]
        flat = normal.reshape(*input.shape[:2], -1)
        ctx.save_for_backward(input, weight, flat, rstd)
        ctx.sets, ctx.cotangent_only, ctx.bias = sets, cotangent_only, bias is not None
        scaled = flat if weight is None else flat * weight[:, None]
        scaled = scaled if bias is None else scaled.add_(bias[:, None])
        # What is saved may not be handed out as well.
        result: Tensor = scaled.clone() if scaled is flat else scaled
        return result.view(input.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, normal, rstd = ctx.saved_tensors
        if ctx.cotangent_only:
            input, weight = input.detach(), None if weight is None else weight.detach()
        parts = applied(_ChannelNormBackward, grad_outputs[0], input, weight, normal, rstd, ctx.sets)
        return parts[0], parts[1], parts[2] if ctx.bias else None, None, None, None


class _ChannelNormBackward(torch.autograd.Function):
    """(g, x, gamma) -> (r P gamma g, sum g x^, sum g), with the projection P a = a - mean(a) - x^ mean(a x^)."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor | None, normal: Tensor, rstd: Tensor, sets: Sets
    ) -> tuple[Tensor | None, ...]:
        ctx.sets, ctx.shape = sets, grad.shape
        ctx.set_materialize_grads(False)
        g, scale, places = _flat(grad), _scale(weight, rstd), normal.shape[2]
        sum_g, sum_gx = g.sum(2), torch.linalg.vecdot(g, normal)
        mean, mean_x = sets.mean(scale * sum_g, places), sets.mean(scale * sum_gx, places)
        to_input = _combined((rstd * scale, g), (-rstd * mean_x, normal), shift=-rstd * mean)
        at_point = [g, sum_g, sum_gx, mean, mean_x] if any(ctx.needs_input_grad[1:3]) else []
        ctx.save_for_backward(weight, normal, rstd, *at_point)
        affine = (None, None) if weight is None else (sum_gx.sum(0), sum_g.sum(0))
        return to_input.view(grad.shape), *affine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, normal, rstd, *at_point = ctx.saved_tensors
        sets, places = ctx.sets, normal.shape[2]
        scale = _scale(weight, rstd)
        zero = torch.zeros_like(scale)
        b, c = (zero if part is None else part[None] for part in cotangents[1:])
        a = None if cotangents[0] is None else _flat(cotangents[0])
        of_x, mean, mean_x = b, zero, zero
        if a is not None:
            sum_a, sum_ax = a.sum(2), torch.linalg.vecdot(a, normal)
            mean, mean_x = sets.mean(sum_a, places), sets.mean(sum_ax, places)
            of_x = b - scale * rstd * mean_x
        terms = [(of_x, normal)] if a is None else [(scale * rstd, a), (of_x, normal)]
        out = _combined(*terms, shift=c - scale * rstd * mean).view(ctx.shape)
        if not at_point:
            return out, None, None, None, None, None
        g, sum_g, sum_gx, mean_h, mean_hx = at_point
        # r P (b g), and for a != 0 what `through` says.
        of_g = rstd * b
        of_x, shift = -rstd * sets.mean(b * sum_gx, places), -rstd * sets.mean(b * sum_g, places)
        if a is None:
            return out, _combined((of_g, g), (of_x, normal), shift=shift).view(ctx.shape), None, None, None, None
        # <a, r P h> with h = gamma g: - r mean(a x^) (r P h) - r mean(h x^) (r P a) - r mean(h r P a) x^
        along = rstd * (torch.linalg.vecdot(a, g) - mean * sum_g - mean_x * sum_gx)  # sums of g r P a
        square = rstd.square()
        of_g = of_g - square * mean_x * scale
        of_x = of_x + 2 * square * mean_x * mean_hx - rstd * sets.mean(scale * along, places)
        shift = shift + square * (mean_x * mean_h + mean_hx * mean)
        input_term = _combined((of_g, g), (-square * mean_hx, a), (of_x, normal), shift=shift).view(ctx.shape)
        return out, input_term, None if weight is None else along.sum(0), None, None, None


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], -1)


def _scale(weight: Tensor | None, rstd: Tensor) -> Tensor:
    return torch.ones_like(rstd[:1]) if weight is None else weight[None]


def _combined(*terms: tuple[Tensor, Tensor], shift: Tensor) -> Tensor:
    """Return the sum of tensors (N, C, S) times factors (N or 1, C), plus a shift like these."""
    (factor, first), *others = terms
    result = first * factor[..., None]
    for factor, tensor in others:
        result.addcmul_(tensor, factor[..., None])
    return result.add_(shift[..., None])
