"""One K-FAC estimate: the second moments of all layers, from a forward and a backward pass over a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.inputs import Inputs
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.kfac.eigenvalues import Eigenvalues
from subsetopt.objective.kfac.factor import Factor
from subsetopt.objective.kfac.second_moments import diagonal_moments, kronecker_moments
from subsetopt.objective.layers import Layer, applied_layer, applied_layers, find_layers, recording, used_elsewhere
from subsetopt.objective.losses import Loss
from subsetopt.objective.output_noise import output_noise
from subsetopt.objective.patches import is_transposed, matrix_shape, sample_rows
from subsetopt.objective.sharding import SampleShare
from subsetopt.objective.weighting import WeightedTargets

LOOKED_AT = 2  # samples of the forward pass that shows what F.linear takes

Draw = Literal["curvature", "labels", "empirical"]


@dataclass
class Moments:
    """One estimate: (A, G) per Kronecker layer, and `rest`, diagonals of parameters without factors by their places.

    `calls` has, for each Kronecker layer, the inputs and output gradients of its calls on this rank's samples. `missed`
    are the places of parameters whose layer does not see all that is done with them: they have a common scale.
    """

    factors: list[tuple[Tensor, Tensor]]
    rest: dict[int, Tensor]
    calls: list[list[tuple[Tensor, Tensor]]]
    missed: list[int]


class MomentEstimator:
    """Estimates the moments of `flat` at any w; `kronecker` are the layers with factors, `others` the tensors without.

    A model's samples may be spread over ranks: what each has is added up in one collective, and what is random is the
    same for a sample wherever it is. With BatchNorm samples are not independent, and parts give another result.
    """

    def __init__(self, flat: FlatModel, loss: Loss, draw: Draw) -> None:
        self._flat, self._loss, self._draw = flat, loss, draw
        self._modules, self._rest = find_layers(flat)
        self._layers, self.others = self._modules, self._rest
        self.kronecker = [layer for layer in self._layers if layer.kronecker]
        self.bounded = True  # whether gradients of single samples are made a few at a time (see `Eigenvalues.of`)
        self.applied: list[tuple[int, int]] | None = None  # weights and biases that F.linear takes; None: not known yet

    def find_applied(self, w: Tensor, x: Inputs, ranks: Ranks) -> None:
        """Look, once, which parameters without factors a forward pass gives to F.linear; the same on all ranks."""
        if self.applied is not None:
            return
        found: list[tuple[int, int]] = []
        if len(x) and any(len(self._flat.shapes[place]) == 2 for place in self.others):
            leaves = self._flat.leaves(w)
            with torch.no_grad(), self._flat.exclusive:
                found = applied_layers(self._flat, self.others, lambda: self._flat.call(leaves, x[:LOOKED_AT], "eval"))
        self.take_applied(max(ranks.gather(found), key=len))

    def take_applied(self, found: Sequence[tuple[int, int]]) -> None:
        """Have layers for these weights and biases, places of parameters (-1 for no bias)."""
        self.applied = [(weight, bias) for weight, bias in found]
        own = [applied_layer(self._flat, weight, bias) for weight, bias in self.applied]
        self._layers = [*self._modules, *own]
        self.kronecker = [layer for layer in self._layers if layer.kronecker]
        covered = {place for pair in self.applied for place in pair}
        self.others = [place for place in self._rest if place not in covered]

    def estimate(
        self, w: Tensor, x: Inputs, y: Tensor, generator: torch.Generator, share: SampleShare | None = None
    ) -> Moments:
        """Return the moments at w on model inputs x `(n, ...)` and prepared targets y; `generator` lives on the CPU."""
        share = share or SampleShare.whole(len(x))
        moments = self.own(w, x, y, generator, share)
        _keep_in_step(generator, share.ranks, drawn=len(x) > 0)
        moments.missed = sorted({place for missed in share.ranks.gather(moments.missed) for place in missed})
        own = moments.rest
        rest = [(place, own[place] if place in own else self._none(place)) for place in self.plain(moments.missed)]
        share.ranks.sum_(*(moment for pair in moments.factors for moment in pair), *(each for _, each in rest))
        moments.rest = dict(rest)
        for each in (moments.rest[place] for place in [*self.others, *moments.missed]):
            # (sum_i J_i'u_i)^2 has the mean sum_i diag(J_i'H_i J_i), as the u_i are independent with mean zero.
            each.fill_(each.square().mean() / share.total)
        return moments

    def plain(self, missed: Iterable[int]) -> list[int]:
        """Return the places of parameters that have no factors, `missed` ones among them, in order."""
        covered = {place for layer in self.kronecker for place in (layer.weight, layer.bias)} - {*missed}
        return [place for place in range(len(self._flat.shapes)) if place not in covered]

    def own(self, w: Tensor, x: Inputs, y: Tensor, generator: torch.Generator, share: SampleShare) -> Moments:
        """Return what these samples contribute; where there is a common scale, their sum_i J_i'u_i in its place."""
        if not len(x):
            nothing = [self._zeros(layer) for layer in self.kronecker]
            return Moments(nothing, {}, [[] for _ in self.kronecker], [])
        with self._flat.exclusive, exact_arithmetic(self._flat.device), recording(self._layers):
            leaves = self._flat.leaves(w)
            with self._flat.at(leaves, "deterministic") as evaluate:
                outputs = evaluate(x)
                u = output_noise(self._loss, outputs, y, self._draw, generator, share)
                weights = y.factors if isinstance(y, WeightedTargets) else None
                return self._read(leaves, outputs, u, generator, share, weights)

    def _read(
        self,
        leaves: list[Tensor],
        outputs: Tensor,
        u: Tensor,
        generator: torch.Generator,
        share: SampleShare,
        weights: Tensor | None,
    ) -> Moments:
        n, weight = len(outputs), len(outputs) / share.total
        called = [output for layer in self._layers for _, output in layer.calls]
        missed = used_elsewhere(self._layers, outputs, leaves)
        scaled = [*self.others, *missed]
        wanted = [*called, *(leaves[place] for place in scaled)]
        gradients = iter(torch.autograd.grad(outputs, wanted, u, materialize_grads=True))
        factors, calls, rest = [], [], {}
        for layer in self._layers:
            own = [next(gradients) for _ in layer.calls]
            if {layer.weight, layer.bias} & {*missed}:
                own = []
            if layer.kronecker:
                pair = kronecker_moments(layer, own, n, generator, share, weights) if own else self._zeros(layer)
                factors.append((pair[0].mul_(weight), pair[1].mul_(weight)))
                calls.append([(x, g) for (x, _), g in zip(layer.calls, own, strict=True)] if own else [])
            elif own:
                for place, values in zip((layer.weight, layer.bias), diagonal_moments(layer, own, n), strict=True):
                    if place is not None and values is not None:
                        rest[place] = values * weight
        for place in scaled:
            rest[place] = next(gradients).clone(memory_format=torch.contiguous_format)
        return Moments(factors, rest, calls, missed)

    def eigenvalues(
        self, moments: Moments, factors: Sequence[tuple[Factor, Factor]], share: SampleShare
    ) -> list[Eigenvalues]:
        """Return those of each Kronecker layer in the basis of its factors (A, G), on the samples of `moments`."""
        found = [
            self.own_eigenvalues(*each, share.total)
            for each in zip(self.kronecker, moments.calls, factors, strict=True)
        ]
        share.ranks.sum_(*(tensor for values in found for tensor in values.tensors))
        return found

    def own_eigenvalues(
        self, layer: Layer, calls: list[tuple[Tensor, Tensor]], pair: tuple[Factor, Factor], total: int
    ) -> Eigenvalues:
        """Return what these samples contribute."""
        rows = sample_rows(layer.module, layer.bias is not None, calls) if calls else iter(())
        return Eigenvalues.of(rows, *pair, total, bounded=self.bounded)

    def _none(self, place: int) -> Tensor:
        return torch.zeros(self._flat.shapes[place], dtype=self._flat.dtype, device=self._flat.device)

    def _zeros(self, layer: Layer) -> tuple[Tensor, Tensor]:
        assert layer.weight is not None, "a Kronecker layer has a trainable weight"
        rows, columns = matrix_shape(self._flat.shapes[layer.weight], is_transposed(layer.module))
        columns += layer.bias is not None
        zeros = partial(torch.zeros, dtype=self._flat.dtype, device=self._flat.device)
        return zeros(columns, columns), zeros(rows, rows)


def _keep_in_step(generator: torch.Generator, ranks: Ranks, drawn: bool) -> None:
    """Bring the generator of ranks that had no samples, and drew nothing, to where it is on the others."""
    drew = ranks.gather(drawn)
    if not all(drew):
        received = ranks.broadcast_tensors({"state": generator.get_state()}, drew.index(True))
        generator.set_state(received["state"])
