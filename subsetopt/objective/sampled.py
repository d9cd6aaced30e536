"""A random part of an objective's samples, on which curvature is cheaper than on all of them."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from subsetopt.inputs import Inputs
from subsetopt.objective.chunks import bounds
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.linearisation import ChunkSource, ModelLinearisation
from subsetopt.objective.losses import Loss
from subsetopt.objective.protocol import CallKind, Meter, Preconditioner
from subsetopt.objective.sharding import Edges, SampleShare


class SampledSource(ChunkSource, Protocol):
    """What `SampledPart` needs to know of the whole objective."""

    meter: Meter


class SampledPart:
    """The mean loss over a random `share` of the samples plus the objective's L2 term, as a source of curvature.

    With BatchNorm each chunk of the part is normalised by its own statistics, as in the objective itself; then, one
    process alone has to have all samples. Otherwise each of several ranks has those of its own that are in the part.
    """

    def __init__(self, whole: SampledSource, share: float, generator: torch.Generator) -> None:
        self._smallest = 2 if whole.flat.batch_dependent else 1
        self.n_samples = min(whole.n_samples, max(self._smallest, math.ceil(share * whole.n_samples)))
        places = torch.randperm(whole.n_samples, generator=generator)[: self.n_samples]
        start, stop = whole.samples.span
        own = ((places >= start) & (places < stop)).nonzero().flatten()
        self._places, self._share = places[own] - start, SampleShare(self.n_samples, own, whole.ranks)
        self._whole, self.samples = whole, whole.samples
        self.flat: FlatModel = whole.flat
        self.loss: Loss = whole.loss
        self.l2, self.allow_tf32, self.ranks = whole.l2, whole.allow_tf32, whole.ranks
        # What is learned about recording holds for the objective: shared, so that it is found out once.
        self.by_differences, self.graph_bytes = whole.by_differences, whole.graph_bytes
        self.by_hessian = whole.by_hessian

    @property
    def edges(self) -> Edges:
        """The chunks of this rank's samples of the part; it may have none."""
        if not len(self._places):
            return []
        return bounds(len(self._places), max(self._smallest, self.samples.chunk_size))

    def piece(self, start: int, stop: int) -> tuple[Inputs, Tensor]:
        """Return inputs and targets of samples `start` to `stop` of this rank's, as the model gets them."""
        return self.samples.data.pick(self._places[start:stop])

    def charge_product(self, kind: CallKind, samples: int) -> None:
        """Charge work done for curvature products."""
        self._whole.charge_product(kind, samples)

    def linearise(self, w: Tensor) -> ModelLinearisation:
        """Return curvature products at w; the work is done, and charged, when the first product is asked for."""
        return ModelLinearisation(self, w)

    def update(self, preconditioner: Preconditioner, w: Tensor, generator: torch.Generator) -> None:
        """Let `preconditioner` take in an estimate at w on these samples."""
        preconditioner.update(w, *self.samples.data.pick(self._places), generator, self._whole.meter, self._share)
