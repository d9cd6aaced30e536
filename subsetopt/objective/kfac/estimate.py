"""K-FAC with corrected eigenvalues: the Fisher (Gauss-Newton) matrix by layers, with exact damped inverses.

A block of F is near A (x) G, A the second moment of a layer's inputs and G that of the gradients in its outputs
(Martens and Grosse 2015; Grosse and Martens 2016 for convolutions). Their eigenvectors V and U are kept; the
eigenvalues S are those of the samples in that basis (EKFAC: George et al. 2018; see `eigenvalues.py`). The damped
inverse is exact: (F + damping I)^-1 = (V (x) U) diag(1 / (S + damping)) (V (x) U)'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.host import host_read
from subsetopt.objective.kfac.blocks import Blocks
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.eigenvalues import Eigenvalues
from subsetopt.objective.kfac.factor import FEW, RANK, Factor
from subsetopt.objective.kfac.moments import Draw, MomentEstimator
from subsetopt.objective.kfac.price import EstimatePrice
from subsetopt.objective.losses import Loss
from subsetopt.objective.protocol import Meter
from subsetopt.objective.sharding import SampleShare

NAMED = 16
"""Parameters without factors that a note names; it counts the others."""


class Kfac:
    """Running estimate of F at changing w, without L2; zero until `update` has taken one in.

    Linear layers, Conv1d to Conv3d, ConvTranspose1d to 3d, attention's projections and parameters that F.linear takes
    have a Kronecker eigenbasis; norm layers and embeddings a diagonal of squared
    per-sample gradients; every other parameter tensor a multiple of the identity, the mean of its squared random
    gradient, and is named in `note`. `memory` in [0, 1) is the weight of what was known before in each update, after a
    warm-up in which all estimates count the same. A factor is decomposed anew when its moment has changed by more than
    `drift` of its Frobenius norm since the last time: the inputs of the first layer, for one, never change much. Where
    a product would take more than `dear` operations with `RANK` leading eigenvectors of each wide factor, `vectors` of
    them are kept instead, and of narrower factors, too.
    Eigenvalues are averaged in their order, whether the basis has turned or not.
    """

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        *,
        draw: Draw = "curvature",
        memory: float = 0.95,
        drift: float = 0.1,
        dear: float = math.inf,
    ) -> None:
        if flat.is_called_by_loss:
            raise ModelError(
                "K-FAC: it needs layers that are called once with the samples, and the loss calls the model itself; "
                "use another solver, and the preconditioner 'diagonal' or 'none'"
            )
        self.flat, self.loss, self.memory, self.drift, self.dear = flat, loss, memory, drift, dear
        self._moments = MomentEstimator(flat, loss, draw)
        self.updates = 0
        self.vectors = RANK
        self.prices = EstimatePrice(flat, loss, self._moments)
        self._blocks = Blocks(flat, self._moments)

    @property
    def note(self) -> str:
        """Which parameters have no curvature but a common scale, in one line; empty where there are none.

        Those used outside of their layer's calls, and those that F.linear takes, are known after the first update.
        """
        places = sorted({*self._moments.others, *self._blocks.missed})
        if not places:
            return ""
        listed = ", ".join(self.flat.names[place] for place in places[:NAMED])
        listed += f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
        share = 100 * sum(self.flat.shapes[place].numel() for place in places) / self.flat.size
        return (
            f"K-FAC: no factors for {listed} ({share:.3g} % of the parameters); each has one common scale instead, "
            "and gains less from K-FAC"
        )

    def look(self, w: Tensor, x: Inputs) -> None:
        """Find out, by a forward pass of few samples, which parameters F.linear takes; an update does so, too."""
        self._moments.find_applied(w, x, Ranks())

    def update(
        self,
        w: Tensor,
        x: Inputs,
        y: Tensor,
        generator: torch.Generator,
        meter: Meter | None = None,
        share: SampleShare | None = None,
    ) -> None:
        """Take one estimate into the running mean and decompose the factors; charged to `meter` before it is made.

        With `share` it is one of the samples of several ranks, each of which decomposes all of the same factors.
        The charge is arithmetic in gradients of one sample, as ("gradient", "product"): that of the estimate before it
        is made, that of the decompositions when it is known which are due. One host synchronisation. `BudgetExhausted`
        may be raised, and then nothing has changed; nor has it when the samples give an estimate that is not finite.
        """
        share = share or SampleShare.whole(len(x))
        self._moments.find_applied(w, x, share.ranks)
        if not self.updates:
            self.vectors = FEW if self.prices.product_flops(RANK) > self.dear else RANK
        if meter is not None:
            meter.charge("gradient", self.price(w, x, y, share), "product")
        new = self._moments.estimate(w, x, y, generator, share)
        weight = max(1.0 / (self.updates + 1), 1.0 - self.memory)
        pairs = self._blocks.factors or [
            (Factor.of(a, self.vectors), Factor.of(g, self.vectors)) for a, g in new.factors
        ]
        factors = [factor for pair in pairs for factor in pair]
        drawn = [moment for pair in new.factors for moment in pair]
        due = self._due(factors, drawn, weight, [*new.rest.values()])
        if due is None:
            return
        if meter is not None and (extra := self.prices.decomposition([factors[index] for index in due])):
            meter.charge("gradient", extra, "product")
        self.updates, self._blocks.factors = self.updates + 1, pairs
        self._blocks.missed.update(new.missed)
        self._blocks.rest.take_in(new.rest, weight)
        new.factors.clear()  # each moment is freed when it has been taken in
        for factor in factors:
            factor.take_in(drawn.pop(0), weight)
        for index in due:
            factors[index].refresh(generator)
        found = self._moments.eigenvalues(new, pairs, share)
        known = self._blocks.values or found
        self._blocks.values = [mine.lerp(other, weight) for mine, other in zip(known, found, strict=True)]

    def _due(
        self, factors: Sequence[Factor], drawn: Sequence[Tensor], weight: float, rest: Sequence[Tensor]
    ) -> list[int] | None:
        """Return the places of the factors that have no basis, or whose moments drift too far from where they got it.

        `drawn` are the moments of an estimate that is to have this `weight` in the mean. None if it is not finite.
        """
        changes = []
        for factor, moment in zip(factors, drawn, strict=True):
            change, known_norm = factor.change(moment, weight)
            changes.append(change - self.drift * known_norm)
        figures = [*changes, *(each.sum() for each in rest)]
        read = host_read(torch.stack(figures)) if figures else []
        if not all(map(math.isfinite, read)):
            return None
        known = [factor.basis.shape[1] > 0 for factor in factors]
        return [index for index, change in enumerate(read[: len(known)]) if change > 0 or not known[index]]

    def apply(self, v: Tensor, damping: float | Tensor) -> Tensor:
        """Return (F + damping I)^-1 v for v of shape (P,) and damping > 0."""
        return self.apply_(v.clone(), damping)

    def apply_(self, v: Tensor, damping: float | Tensor) -> Tensor:
        """Return the same, written over v."""
        views = self.flat.views(v)
        for place, part in self._blocks.parts(v, lambda spectrum: (spectrum + damping).reciprocal_()):
            views[place].copy_(part)
        return v

    def add_applied(self, into: Tensor, v: Tensor, damping: float, scale: float) -> None:
        """Add `scale` times (F + damping I)^-1 v to `into`, with no more memory than the largest layer takes."""
        views = self.flat.views(into)
        for place, part in self._blocks.parts(v, lambda spectrum: (spectrum + damping).reciprocal_()):
            views[place].add_(part, alpha=scale)

    def product(self, v: Tensor) -> Tensor:
        """Return F v, shape (P,)."""
        result = torch.empty_like(v)
        views = self.flat.views(result)
        for place, part in self._blocks.parts(v, Tensor.clone):
            views[place].copy_(part)
        return result

    def layer_inverse(self, weight: int, l2: float) -> Callable[[Tensor], Tensor] | None:
        """Return `Blocks.layer_inverse`, of the block of the linear layer whose weight has this place."""
        return self._blocks.layer_inverse(weight, l2)

    @property
    def product_flops(self) -> int:
        """Operations of one `apply` or `product`."""
        return self._blocks.product_flops

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues of F, shape (P,), in no particular order."""
        parts = self._blocks.counted_eigenvalues()
        return torch.cat([values.flatten() if n is None else values.repeat_interleave(n) for values, n in parts])

    def spectrum(self) -> KfacSpectrum:
        """Return the histogram of the eigenvalues; those that a wide layer has in common are not written out."""
        return KfacSpectrum.of_parts(self._blocks.counted_eigenvalues())

    def price(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare | None = None) -> int:
        """Return what an estimate, on all ranks, costs without decompositions, in gradients of one sample."""
        return self.prices.estimate(w, x, y, share or SampleShare.whole(len(x)), self.vectors)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that `load_state_dict` needs to go on bit for bit."""
        tensors = {"diagonal": self._blocks.rest.packed(), "updates": torch.tensor(self.updates, device="cpu")}
        if self._moments.bounded:
            tensors["bounded"] = torch.tensor(True, device="cpu")
        if self.vectors != RANK:
            tensors["vectors"] = torch.tensor(self.vectors, device="cpu")
        if self._moments.applied:
            tensors["applied"] = torch.tensor(self._moments.applied, device="cpu")
        if self._blocks.missed:
            tensors["missed"] = torch.tensor(sorted(self._blocks.missed), device="cpu")
        for index, ((a, g), values) in enumerate(zip(self._blocks.factors, self._blocks.values, strict=True)):
            tensors |= a.state(f"{index}.a.") | g.state(f"{index}.g.") | values.state(f"{index}.eigenvalues.")
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned; raises `ModelError` for the factors of other layers."""
        if int(tensors["updates"]):  # as they were looked for then, if they were
            known = tensors.get("applied")
            self._moments.take_applied([] if known is None else [(int(w), int(b)) for w, b in known.tolist()])
            self._moments.bounded = "bounded" in tensors  # those of earlier versions go on with their sums
        self._check_layers(tensors)
        self.updates = int(tensors["updates"])
        self.vectors = int(tensors["vectors"]) if "vectors" in tensors else RANK
        self._blocks.missed = set(tensors["missed"].tolist()) if "missed" in tensors else set()
        self._blocks.rest.clear()
        if self.updates:
            self._blocks.rest.unpack(tensors["diagonal"], self._moments.plain(self._blocks.missed))
        count = len(self._moments.kronecker) if self.updates else 0
        self._blocks.factors = [
            (Factor.from_state(tensors, f"{index}.a."), Factor.from_state(tensors, f"{index}.g."))
            for index in range(count)
        ]
        self._blocks.values = [Eigenvalues.from_state(tensors, f"{index}.eigenvalues.") for index in range(count)]

    def _check_layers(self, tensors: Mapping[str, Tensor]) -> None:
        known = [index for index in range(len(tensors)) if f"{index}.a.moment" in tensors]
        own = len(self._moments.kronecker)
        if int(tensors["updates"]) and len(known) != own:
            raise ModelError(
                f"checkpoint: it has K-FAC factors of {len(known)} layers, the model has {own}; "
                "start anew, or resume with the version that wrote it"
            )
