"""Loss and gradient of the samples of one rank, summed chunk by chunk; without L2, which the objective adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from subsetopt.inputs import Inputs
from subsetopt.objective.acceleration import ChunkGraphs, CompiledLoss, Evaluate, chunk_graphs
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.noise import NoiseAccumulator
from subsetopt.objective.samples import Samples


class ChunkSums:
    """The sums over `samples`, in the accumulation dtype of the device whatever the dtype of the parameters.

    `compile` and `cuda_graphs` (see `acceleration.py`) make them faster on some machines, up to rounding; graphs are
    not used with `track_noise`, which needs the gradient of each chunk.
    """

    def __init__(
        self, flat: FlatModel, loss: Loss, samples: Samples, *, track_noise: bool, compile: bool, cuda_graphs: bool
    ) -> None:
        self._flat, self._loss, self._samples, self._track_noise = flat, loss, samples, track_noise
        self.dtype = accumulation_dtype(flat.device)
        self.compiled = CompiledLoss(flat, loss, self.dtype) if compile else None
        self.graphs: ChunkGraphs | None = None
        if cuda_graphs and not track_noise:
            self.graphs = chunk_graphs(flat, loss, samples.count, self.dtype)

    def loss(self, w: Tensor) -> Tensor:
        """Return the sum of the losses, a new scalar tensor."""
        parameters, total = self._flat.views(self._flat.check(w).detach()), self._zero()
        with self._flat.at(parameters, "deterministic") as evaluate:
            for x, y in self._samples:
                total += self._of_chunk(evaluate, parameters, x, y)
        return total

    def mean_gradient(self, w: Tensor) -> tuple[Tensor, Tensor, NoiseAccumulator | None]:
        """Return the sums of losses and gradients, over the number of all samples, and the noise where it is tracked.

        The noise is not complete: it holds the gradients of the chunks (see `NoiseAccumulator`).
        """
        leaves = self._flat.leaves(w)
        gradient = torch.zeros_like(w, requires_grad=False)
        if self.graphs is not None and (value := self.graphs.sum(w, gradient, self._samples)) is not None:
            return value, gradient, None
        if self._track_noise:
            value, noise = self._noisy_sum(leaves, gradient)
            return value, gradient, noise
        return self._sum(leaves, gradient, self._samples), gradient, None

    def _sum(self, leaves: list[Tensor], gradient: Tensor, pieces: Iterable[tuple[Inputs, Tensor]]) -> Tensor:
        for leaf, view in zip(leaves, self._flat.views(gradient), strict=True):
            leaf.grad = view
        total: Tensor | None = None
        with self._flat.at(leaves, "deterministic") as evaluate:
            for x, y in pieces:
                part = self._of_chunk(evaluate, leaves, x, y) / self._samples.count
                # Gradients are added straight into the flat buffer that the leaves' .grad are views of.
                part.backward(inputs=leaves)
                total = part.detach().to(self.dtype) if total is None else total.add_(part.detach())
        return self._zero() if total is None else total

    def _noisy_sum(self, leaves: list[Tensor], gradient: Tensor) -> tuple[Tensor, NoiseAccumulator]:
        noise = NoiseAccumulator(self._samples.all_sizes, self.dtype, self._samples.first_chunk)
        total = self._zero()
        for piece in self._samples:
            part = torch.zeros_like(gradient)
            total += self._sum(leaves, part, [piece])
            noise.add(part)
            gradient += part
        return total, noise

    def _of_chunk(self, evaluate: Evaluate, parameters: Sequence[Tensor], x: Inputs, y: Tensor) -> Tensor:
        if self.compiled is not None:
            return self.compiled(evaluate, parameters, x, y)
        return self._loss.total(outputs_of(evaluate, x), y, self.dtype)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self._flat.device)
