"""K-FAC with corrected eigenvalues: the Fisher (Gauss-Newton) matrix by layers, with exact damped inverses.

A block of F is near A (x) G, A the second moment of a layer's inputs and G that of the gradients in its outputs
(Martens and Grosse 2015; Grosse and Martens 2016 for convolutions). Their eigenvectors V and U are kept; the
eigenvalues S are those of the samples in that basis (EKFAC: George et al. 2018; see `kfac_eigenvalues.py`). The damped
inverse is exact: (F + damping I)^-1 = (V (x) U) diag(1 / (S + damping)) (V (x) U)'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.flops import count_flops
from subsetopt.objective.host import host_read
from subsetopt.objective.kfac.damping import KfacSpectrum, Part
from subsetopt.objective.kfac.diagonals import Diagonals
from subsetopt.objective.kfac.eigenvalues import Eigenvalues, product_flops, spectral_product
from subsetopt.objective.kfac.factor import FEW, RANK, Factor
from subsetopt.objective.kfac.moments import Draw, MomentEstimator
from subsetopt.objective.layers import Layer
from subsetopt.objective.losses import Loss
from subsetopt.objective.patches import as_matrix, as_weight, is_transposed
from subsetopt.objective.protocol import Meter
from subsetopt.objective.sharding import SampleShare

COUNTED_SAMPLES = 8
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
        self._counted: tuple[float, float] | None = None
        self._factors: list[tuple[Factor, Factor]] = []
        self._values: list[Eigenvalues] = []
        self._rest = Diagonals(flat)
        self._missed: set[int] = set()  # places of parameters that are used outside of their layer's calls

    @property
    def note(self) -> str:
        """Which parameters have no curvature but a common scale, in one line; empty where there are none.

        Those used outside of their layer's calls, and those that F.linear takes, are known after the first update.
        """
        places = sorted({*self._moments.others, *self._missed})
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
            self.vectors = FEW if self._product_flops_of(RANK) > self.dear else RANK
        if meter is not None:
            meter.charge("gradient", self.price(w, x, y, share), "product")
        new = self._moments.estimate(w, x, y, generator, share)
        weight = max(1.0 / (self.updates + 1), 1.0 - self.memory)
        pairs = self._factors or [(Factor.of(a, self.vectors), Factor.of(g, self.vectors)) for a, g in new.factors]
        factors = [factor for pair in pairs for factor in pair]
        drawn = [moment for pair in new.factors for moment in pair]
        due = self._due(factors, drawn, weight, [*new.rest.values()])
        if due is None:
            return
        if meter is not None and (extra := self._decomposition_price([factors[index] for index in due])):
            meter.charge("gradient", extra, "product")
        self.updates, self._factors = self.updates + 1, pairs
        self._missed.update(new.missed)
        self._rest.take_in(new.rest, weight)
        new.factors.clear()  # each moment is freed when it has been taken in
        for factor in factors:
            factor.take_in(drawn.pop(0), weight)
        for index in due:
            factors[index].refresh(generator)
        found = self._moments.eigenvalues(new, pairs, share)
        known = self._values or found
        self._values = [mine.lerp(other, weight) for mine, other in zip(known, found, strict=True)]

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
        for place, part in self._parts(v, lambda spectrum: (spectrum + damping).reciprocal_()):
            views[place].copy_(part)
        return v

    def add_applied(self, into: Tensor, v: Tensor, damping: float, scale: float) -> None:
        """Add `scale` times (F + damping I)^-1 v to `into`, with no more memory than the largest layer takes."""
        views = self.flat.views(into)
        for place, part in self._parts(v, lambda spectrum: (spectrum + damping).reciprocal_()):
            views[place].add_(part, alpha=scale)

    def layer_inverse(self, weight: int, l2: float) -> Callable[[Tensor], Tensor] | None:
        """Return v -> (B + (l2 + s) I)^-1 v, B the block of the linear layer whose weight has this place.

        v is its weight and then its bias in a row, s the mean eigenvalue of B. None where there is no such block.
        """
        for layer, a, g, values in self._blocks():
            if layer.weight == weight:
                o, d = len(g.moment), len(a.moment)
                shift = l2 + values.all(o, d).mean()
                break
        else:
            return None
        inputs = d - (layer.bias is not None)

        def inverse(v: Tensor) -> Tensor:
            matrix = torch.cat([v[: o * inputs].view(o, inputs), v[o * inputs :].view(o, d - inputs)], 1)
            solved = spectral_product(a, g, values, matrix, lambda known: (known + shift).reciprocal())
            return torch.cat([solved[:, :inputs].reshape(-1), solved[:, inputs:].reshape(-1)])

        return inverse

    def product(self, v: Tensor) -> Tensor:
        """Return F v, shape (P,)."""
        result = torch.empty_like(v)
        views = self.flat.views(result)
        for place, part in self._parts(v, Tensor.clone):
            views[place].copy_(part)
        return result

    @property
    def product_flops(self) -> int:
        """Operations of one `apply` or `product`."""
        return sum(product_flops(a, g) for _, a, g, _ in self._blocks())

    def _product_flops_of(self, vectors: int) -> int:
        """Return the operations of a product with factors that keep at most so many vectors, by their shapes."""
        views, total = self.flat.views(torch.empty(self.flat.size, device="meta")), 0
        for layer in self._moments.kronecker:
            assert layer.weight is not None, "a Kronecker layer has a trainable weight"
            o, d = as_matrix(views[layer.weight], is_transposed(layer.module)).shape
            widths = (d + (layer.bias is not None), o)
            a, g = (Factor.shaped(torch.empty(n, n, device="meta"), vectors) for n in widths)
            total += product_flops(a, g)
        return total

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues of F, shape (P,), in no particular order."""
        parts = self._counted_eigenvalues()
        return torch.cat([values.flatten() if n is None else values.repeat_interleave(n) for values, n in parts])

    def spectrum(self) -> KfacSpectrum:
        """Return the histogram of the eigenvalues; those that a wide layer has in common are not written out."""
        return KfacSpectrum.of_parts(self._counted_eigenvalues())

    def _counted_eigenvalues(self) -> list[Part]:
        """Return the eigenvalues of F, and how often each occurs: of diagonals, which are not copied, once."""
        pairs = [values.counted(len(g.moment), len(a.moment)) for _, a, g, values in self._blocks()]
        return [*pairs, *((self._rest[place], None) for place in self._places_without())]

    def price(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare | None = None) -> int:
        """Return what an estimate, on all ranks, costs without decompositions, in gradients of one sample."""
        share = share or SampleShare.whole(len(x))
        if self._counted is None:
            self._counted = self._flops(w, x, y, share)
        return math.ceil(self._counted[0] * share.total)

    def _decomposition_price(self, factors: Sequence[Factor]) -> int:
        assert self._counted is not None, "the estimate was priced first"
        gradient = self._counted[1]
        return math.ceil(sum(factor.price for factor in factors) / gradient) if gradient else 0

    def forget(self) -> None:
        """Give up all that is known, and its memory."""
        self.updates, self._factors, self._values = 0, [], []
        self._rest.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that `load_state_dict` needs to go on bit for bit."""
        tensors = {"diagonal": self._rest.packed(), "updates": torch.tensor(self.updates, device="cpu")}
        if self._moments.bounded:
            tensors["bounded"] = torch.tensor(True, device="cpu")
        if self.vectors != RANK:
            tensors["vectors"] = torch.tensor(self.vectors, device="cpu")
        if self._moments.applied:
            tensors["applied"] = torch.tensor(self._moments.applied, device="cpu")
        if self._missed:
            tensors["missed"] = torch.tensor(sorted(self._missed), device="cpu")
        for index, ((a, g), values) in enumerate(zip(self._factors, self._values, strict=True)):
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
        self._missed = set(tensors["missed"].tolist()) if "missed" in tensors else set()
        self._rest.clear()
        if self.updates:
            self._rest.unpack(tensors["diagonal"], self._moments.plain(self._missed))
        count = len(self._moments.kronecker) if self.updates else 0
        self._factors = [
            (Factor.from_state(tensors, f"{index}.a."), Factor.from_state(tensors, f"{index}.g."))
            for index in range(count)
        ]
        self._values = [Eigenvalues.from_state(tensors, f"{index}.eigenvalues.") for index in range(count)]

    def _check_layers(self, tensors: Mapping[str, Tensor]) -> None:
        known = [index for index in range(len(tensors)) if f"{index}.a.moment" in tensors]
        own = len(self._moments.kronecker)
        if int(tensors["updates"]) and len(known) != own:
            raise ModelError(
                f"checkpoint: it has K-FAC factors of {len(known)} layers, the model has {own}; "
                "start anew, or resume with the version that wrote it"
            )

    def _blocks(self) -> Iterator[tuple[Layer, Factor, Factor, Eigenvalues]]:
        """Return the layers that have factors, with what is known of them; none before the first update."""
        known = zip(self._moments.kronecker, self._factors, self._values, strict=bool(self.updates))
        return ((layer, a, g, values) for layer, (a, g), values in known if layer.weight not in self._missed)

    def _parts(self, v: Tensor, function: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Yield, by places, the product of v with a function of F, given by its action on the eigenvalues.

        The function returns new tensors. What is yielded of a layer may be written over its part of v.
        """
        source = self.flat.views(v)
        for place in self._places_without():
            yield place, function(self._rest[place]).mul_(source[place])
        for layer, a, g, values in self._blocks():
            assert layer.weight is not None, "a Kronecker layer has a trainable weight"
            weight, bias = source[layer.weight], None if layer.bias is None else source[layer.bias]
            matrix = as_matrix(weight, is_transposed(layer.module))
            own = matrix.clone() if bias is None else torch.cat([matrix, bias[:, None]], 1)
            solved = spectral_product(a, g, values, own, function)
            yield (
                layer.weight,
                as_weight(solved if bias is None else solved[:, :-1], weight.shape, is_transposed(layer.module)),
            )
            if layer.bias is not None:
                yield layer.bias, solved[:, -1]

    def _places_without(self) -> list[int]:
        """Return the places of parameters that are in no block."""
        covered = {place for layer, *_ in self._blocks() for place in (layer.weight, layer.bias)}
        return [place for place in range(len(self.flat.shapes)) if place not in covered]

    def _flops(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare) -> tuple[float, float]:
        """Return the flops of an estimate over those of a gradient, per sample, and those of the gradient of one."""
        few = min(COUNTED_SAMPLES, len(x))
        estimate = count_flops(lambda: self._estimate_own(w, x, y, share))
        gradient = count_flops(lambda: self._gradient(w, x[:few], y[:few])) / few if few else 0.0
        gathered = share.ranks.gather((estimate, gradient))
        gradient = max(each for _, each in gathered)
        return (sum(all_ for all_, _ in gathered) / share.total / gradient, gradient) if gradient else (1.0, 0.0)

    def _estimate_own(self, w: Tensor, x: Inputs, y: Tensor, share: SampleShare) -> None:
        own = self._moments.own(w, x, y, torch.Generator(), share)
        for layer, calls, (a, g) in zip(self._moments.kronecker, own.calls, own.factors, strict=True):
            shaped = Factor.shaped(a, self.vectors), Factor.shaped(g, self.vectors)
            self._moments.own_eigenvalues(layer, calls, shaped, share.total)

    def _gradient(self, w: Tensor, x: Inputs, y: Tensor) -> None:
        leaves = self.flat.leaves(w)
        with self.flat.at(leaves, "deterministic") as evaluate:
            torch.autograd.grad(self.loss.total(evaluate(x), y, w.dtype), leaves, allow_unused=True)
