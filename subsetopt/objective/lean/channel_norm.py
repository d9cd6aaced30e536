"""Normalisation with a scale and shift per channel (BatchNorm on batch statistics, GroupNorm, InstanceNorm), whose
second derivative takes few passes over the data.

x^ = (x - mean) r, r = 1/std, over the n numbers of a set: a channel of all samples, or some channels of one sample.
Products need sums over the places of each channel, of each sample where samples are apart: of what comes in, and of it
times x^ and g. All that follows from these is formed on small tensors, and what is left are sums of tensors scaled by
channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded


class Sets(NamedTuple):
    """Over what is normalised: every channel of the whole batch (`groups` 0), or groups of channels of each sample."""

    groups: int

    def sums(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the sums of `a` (N, C, S), or of it times `b`, over the places of each channel: (N, C), or (1, C)."""
        if a.shape[2] == 1:
            sums = (a if b is None else a * b)[..., 0]
        else:
            sums = a.sum(2) if b is None else torch.linalg.vecdot(a, b)
        return sums if self.groups else sums.sum(0, keepdim=True)

    def mean(self, sums: Tensor, shape: torch.Size) -> Tensor:
        """Return the means over the sets from such sums of tensors (N, C, S), with a set's mean repeated."""
        samples, channels, places = shape
        if not self.groups:
            return sums / (samples * places)
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
    return recorded(_ChannelNorm(input.shape, sets, eps), in_cotangent_only, input, weight, bias)


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


class _ChannelNorm(Operator):
    """(g, x, gamma) -> (r P gamma g, sum g x^, sum g), with the projection P a = a - mean(a) - x^ mean(a x^).

    Along a change a of x, r P h with h = gamma g changes by - r mean(a x^) (r P h) - r mean(h x^) (r P a)
    - r mean(h r P a) x^.
    """

    def __init__(self, shape: torch.Size, sets: Sets, eps: float) -> None:
        self.shape, self.sets, self.eps = shape, sets, eps

    def evaluate(self, *inputs: Any) -> Evaluated:
        input, weight, bias = inputs
        sets = self.sets
        if sets.groups:
            rows = input.reshape(len(input) * sets.groups, -1)
            normal, _, rstd = torch.ops.aten.native_layer_norm(rows, [rows.shape[1]], None, None, self.eps)
            rstd = rstd.view(len(input), sets.groups).repeat_interleave(input.shape[1] // sets.groups, 1)
        else:
            normal, _, rstd = torch.ops.aten.native_batch_norm(input, None, None, None, None, True, 0.0, self.eps)
            rstd = rstd[None]
        flat = normal.reshape(*input.shape[:2], -1)
        scaled = flat if weight is None else flat * weight[:, None]
        scaled = scaled if bias is None else scaled.add_(bias[:, None])
        # What is saved may not be handed out as well.
        result: Tensor = scaled.clone() if scaled is flat else scaled
        return Evaluated(result.view(input.shape), (weight, flat, rstd))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        weight, normal, rstd = kept
        g = _flat(grad)
        sums = _Sums.of(g, normal, _scale(weight, rstd), self.sets)
        to_input = _combined(*self._through(g, normal, sums, weight, rstd), shift=-rstd * sums.mean)
        at_point = (g, sums.plain, sums.by_x, sums.mean, sums.mean_x) if curved else ()
        affine = (None, None) if weight is None else (sums.by_x.sum(0), sums.plain.sum(0) if needs[2] else None)
        return (to_input.view(grad.shape), *affine), at_point

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        weight, normal, rstd = kept
        scale = _scale(weight, rstd)
        b, c = (torch.zeros_like(scale) if part is None else part[None] for part in changes[1:])
        if changes[0] is None:
            return _combined((b, normal), shift=c).view(self.shape), (None, b, None, None)
        a = _flat(changes[0])
        sums = _Sums.of(a, normal, torch.ones_like(scale), self.sets)
        terms = [(scale * rstd, a), (b - scale * rstd * sums.mean_x, normal)]
        output = _combined(*terms, shift=c - scale * rstd * sums.mean)
        return output.view(changes[0].shape), (a, b, sums.mean, sums.mean_x)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        weight, normal, rstd = kept
        g, sum_g, sum_gx, mean_h, mean_hx = at_point
        a, b, mean, mean_x = seen
        new, scale, shape = _flat(grad), _scale(weight, rstd), normal.shape
        sums = _Sums.of(new, normal, scale, self.sets)
        (first, (of_x, _)) = self._through(new, normal, sums, weight, rstd)
        # r P (b g)
        of_g = rstd * b
        of_x = of_x - rstd * self.sets.mean(b * sum_gx, shape)
        shift = -rstd * (sums.mean + self.sets.mean(b * sum_g, shape))
        terms, to_weight = [first], sums.by_x
        if a is not None:
            along = rstd * (self.sets.sums(a, g) - mean * sum_g - mean_x * sum_gx)  # sums of g r P a
            square = rstd.square()
            of_g = of_g - square * mean_x * scale
            of_x = of_x + 2 * square * mean_x * mean_hx - rstd * self.sets.mean(scale * along, shape)
            shift = shift + square * (mean_x * mean_h + mean_hx * mean)
            terms.append((-square * mean_hx, a))
            to_weight = to_weight + along
        to_input = _combined(*terms, (of_g, g), (of_x, normal), shift=shift).view(grad.shape)
        affine = (None, None) if weight is None else (to_weight.sum(0), sums.plain.sum(0) if needs[2] else None)
        return to_input, *affine

    def _through(
        self, g: Tensor, normal: Tensor, sums: _Sums, weight: Tensor | None, rstd: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return r P gamma g without its shift, as factors and tensors."""
        return (rstd * _scale(weight, rstd), g), (-rstd * sums.mean_x, normal)


class _Sums(NamedTuple):
    """Sums of g and g x^ (see `Sets.sums`), and the means over the sets of both times a scale."""

    plain: Tensor
    by_x: Tensor
    mean: Tensor
    mean_x: Tensor

    @classmethod
    def of(cls, g: Tensor, normal: Tensor, scale: Tensor, sets: Sets) -> _Sums:
        """Return the sums for g (N, C, S)."""
        plain, by_x = sets.sums(g), sets.sums(g, normal)
        return cls(plain, by_x, sets.mean(scale * plain, g.shape), sets.mean(scale * by_x, g.shape))


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
