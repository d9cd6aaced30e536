"""Estimates of the Gauss-Newton matrix that a Krylov method can invert: the diagonal, for any model, and K-FAC."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from subsetopt.errors import unknown_name
from subsetopt.inputs import Inputs
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.losses import Loss
from subsetopt.objective.output_noise import output_noise
from subsetopt.objective.protocol import Meter, Preconditioner
from subsetopt.objective.sharding import SampleShare

KINDS = ("diagonal", "kfac")
MEMORY = 0.7
"""Weight of older estimates: solvers move far between updates, where a stream of small steps would average longer."""

GROUP = 16
"""Samples per pulled-back random vector of the diagonal."""


def make_preconditioner(kind: str, flat: FlatModel, loss: Loss) -> Preconditioner:
    """Return the preconditioner called `kind`; raises `SettingError` for another name."""
    if kind == "kfac":
        return Kfac(flat, loss, memory=MEMORY)
    if kind == "diagonal":
        return Diagonal(flat, loss, memory=MEMORY)
    raise unknown_name("preconditioner", kind, KINDS)


class Diagonal:
    """Running estimate of diag(G), G the Gauss-Newton matrix without L2, for any model.

    (sum_i J_i'u_i)² over a few samples i, with independent u_i of mean zero and E[u_i u_i'] the Hessian of the loss in
    the outputs, has the mean sum_i diag(J_i'H_i J_i): one backward pass for `GROUP` samples, averaged over groups.
    """

    def __init__(self, flat: FlatModel, loss: Loss, *, memory: float) -> None:
        self._flat, self._loss, self._memory = flat, loss, memory
        self._updates = 0
        self._diagonal = torch.zeros(flat.size, dtype=flat.dtype, device=flat.device)

    @property
    def note(self) -> str:
        """Empty: every parameter has its own entry."""
        return ""

    def update(
        self,
        w: Tensor,
        x: Inputs,
        y: Tensor,
        generator: torch.Generator,
        meter: Meter | None = None,
        share: SampleShare | None = None,
    ) -> None:
        """Take one estimate on model inputs x `(n, ...)` and prepared targets y into the running mean.

        Groups are of neighbours, who would have to be on one rank: `SolverPhase` refuses it on several.
        """
        assert share is None or share.ranks.size == 1, "one process alone"
        if meter is not None:
            meter.charge("gradient", len(x), "product")
        new = self._estimate(w, x, y, generator)
        self._updates += 1
        self._diagonal = torch.lerp(self._diagonal, new, max(1.0 / self._updates, 1.0 - self._memory))

    def apply(self, v: Tensor, damping: float | Tensor) -> Tensor:
        """Return v / (diagonal + damping)."""
        return v / (self._diagonal + damping)

    def product(self, v: Tensor) -> Tensor:
        """Return the diagonal times v."""
        return self._diagonal * v

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that `load_state_dict` needs to go on bit for bit."""
        return {"diagonal": self._diagonal, "updates": torch.tensor(self._updates, device="cpu")}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        self._diagonal, self._updates = tensors["diagonal"], int(tensors["updates"])

    def _estimate(self, w: Tensor, x: Inputs, y: Tensor, generator: torch.Generator) -> Tensor:
        total = torch.zeros_like(self._diagonal)
        into = self._flat.views(total)
        with exact_arithmetic(self._flat.device):
            leaves = self._flat.leaves(w)
            for group in (slice(start, start + GROUP) for start in range(0, len(x), GROUP)):
                x_part, y_part = x[group], y[group]
                with self._flat.at(leaves, "deterministic") as evaluate:
                    outputs = evaluate(x_part)
                    u = output_noise(self._loss, outputs, y_part, "curvature", generator)
                    pulled = torch.autograd.grad(outputs, leaves, u, materialize_grads=True, allow_unused=True)
                for view, part in zip(into, pulled, strict=True):
                    view.addcmul_(part, part)
        return total / len(x)
