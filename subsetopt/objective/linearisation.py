"""Curvature products at one fixed w, from graphs recorded once per chunk.

Hessian: g = grad(f) recorded with its own graph, then H v = grad(<g, v>) (Pearlmutter 1994, in reverse over reverse).
Gauss-Newton: G v = J' H_z J v with H_z the closed-form Hessian of the loss in the outputs (Schraudolph 2002); J v by
differentiating J' u with respect to u. Products replay stored graphs and repeat neither the forward pass nor the
gradient. Counting matrix products only (a layer's forward is 1, a gradient 3), H v costs 6 and G v 4 in an inner
layer, and 2 and 2 against a gradient's 2 in the first layer, whose input needs no gradient: the limits in units of a
gradient lie between 1 and 2, and 1 and 4/3. `torch.func.linearize` takes 0.5 to 1.6 s to trace at every w.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.inputs import Inputs
from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.guard import PROBE_SAMPLES
from subsetopt.objective.host import host_read
from subsetopt.objective.losses import Loss
from subsetopt.objective.memory import UNMEASURED, with_saved_bytes
from subsetopt.objective.output_curvature import output_hessian_fault
from subsetopt.objective.protocol import CallKind
from subsetopt.objective.recorders import (
    LayerProduct,
    Recorder,
    record_gauss_newton,
    record_gauss_newton_difference,
    record_hessian,
    record_hessian_difference,
)
from subsetopt.objective.samples import Samples
from subsetopt.objective.sharding import Edges
from subsetopt.seeding import make_generator

ASYMMETRY = 2000.0
"""Rounding of a curvature product, in units of eps, by which a bilinear form may differ from its transpose."""


class ChunkSource(Protocol):
    """What `ModelLinearisation` needs to know of an objective; `edges` are the chunks of this rank's samples."""

    flat: FlatModel
    loss: Loss
    l2: float
    allow_tf32: bool
    ranks: Ranks
    samples: Samples
    by_differences: dict[CallKind, str]
    by_hessian: list[str]
    graph_bytes: dict[CallKind, float]

    @property
    def edges(self) -> Edges: ...
    @property
    def n_samples(self) -> int: ...
    def piece(self, start: int, stop: int) -> tuple[Inputs, Tensor]: ...
    def charge_product(self, kind: CallKind, samples: int) -> None: ...


class ModelLinearisation:
    """Products with the Hessian and the Gauss-Newton matrix of an objective at w; both include l2 times v.

    Graphs are recorded when first asked for, and kept for as many chunks as fit into `samples.linearisation_memory`;
    the others are recorded anew in each product. What is given up because memory ran out is so, too, without being
    charged again: charges are what was planned, alike on all ranks.
    """

    def __init__(self, source: ChunkSource, w: Tensor) -> None:
        self._source = source
        self._w = source.flat.check(w).detach().clone()
        source.samples.follow(self)
        self._edges = source.edges
        self._stored: dict[CallKind, list[LayerProduct]] = {}
        self._kept_samples: dict[CallKind, int] = {}  # of all ranks, which are charged alike

    @property
    def note(self) -> str:
        """What had to be done otherwise than by stored graphs, in one line; empty when nothing was."""
        reasons = [f"{kind} by central differences ({why})" for kind, why in self._source.by_differences.items()]
        reasons += [f"ggnvp by the Hessian ({why})" for why in self._source.by_hessian]
        return f"curvature products: {'; '.join(reasons)}" if reasons else ""

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v, shape (P,)."""
        return self._product("hvp", v)

    def ggnvp(self, v: Tensor) -> Tensor:
        """Return G v, shape (P,); G is positive semidefinite (plus l2) where the loss is convex in the outputs."""
        return self._product("ggnvp", v)

    def stored_chunks(self, kind: CallKind) -> int:
        """Return for how many chunks the graphs of `kind` are kept."""
        return len(self._stored.get(kind, ()))

    def record(self, kind: CallKind) -> None:
        """Record and keep the graphs that products of `kind` ("hvp" or "ggnvp") need; the first product does it too."""
        source = self._source
        if kind in self._kept_samples:
            return
        with source.flat.exclusive, exact_arithmetic(source.flat.device, source.allow_tf32):
            self._try_out(kind)
            if kind == "ggnvp" and source.by_hessian:
                self.record("hvp")
                return
            if kind in source.by_differences:
                return
            kept = self._chunks_to_keep(kind)
            self._kept_samples[kind] = source.ranks.total(self._edges[kept - 1][1] if kept else 0)
            if self._kept_samples[kind]:
                source.charge_product("linearise", self._kept_samples[kind])
            source.samples.within_memory(lambda: self._graphs(kind))

    def release(self) -> bool:
        """Give up the graphs kept, and let half of their memory do from now on; False where there are none."""
        kept = {kind: self._edges[len(graphs) - 1][1] for kind, graphs in self._stored.items() if graphs}
        self._stored.clear()
        if kept:
            graph_bytes = sum(self._source.graph_bytes[kind] * samples for kind, samples in kept.items())
            self._source.samples.limits.graph_bytes = int(graph_bytes / 2)
        return bool(kept)

    def _product(self, kind: CallKind, v: Tensor) -> Tensor:
        source = self._source
        v = source.flat.check(v).detach()
        with source.flat.exclusive, exact_arithmetic(source.flat.device, source.allow_tf32):
            self.record(kind)
            if kind == "ggnvp" and source.by_hessian:
                return self._product("hvp", v)
            exact = kind not in source.by_differences
            if exact:
                if self._kept_samples[kind] < source.n_samples:
                    source.charge_product("linearise", source.n_samples - self._kept_samples[kind])
                source.charge_product(kind, source.n_samples)
            else:
                if kind == "ggnvp":
                    source.charge_product("forward", 2 * source.n_samples)
                source.charge_product("gradient", (2 if kind == "hvp" else 1) * source.n_samples)
            result = source.samples.within_memory(lambda: self._own(kind, v, exact))
            source.ranks.sum_(result)
            return result

    def _own(self, kind: CallKind, v: Tensor, exact: bool) -> Tensor:
        """Return what this rank's samples contribute."""
        stored = self._graphs(kind) if exact else []
        recorder = (_EXACT if exact else _DIFFERENCES)[kind]
        result = v * (self._source.l2 if self._source.ranks.main else 0.0)
        into, direction = self._source.flat.views(result), self._source.flat.views(v)
        anew = (self._at(recorder, index) for index in range(len(stored), len(self._edges)))
        for product in chain(stored, anew):
            _add(into, product(direction))
            # Without this the next chunk's graph would be recorded beside this one.
            del product
        return result

    def _graphs(self, kind: CallKind) -> list[LayerProduct]:
        """Return the graphs that are kept; recorded where there are none, or chunks have been cut anew."""
        if self._edges != self._source.edges:
            self._stored.clear()
            self._edges = self._source.edges
        if kind not in self._stored:
            # One by one, so that `release` knows of them when memory runs out half-way.
            self._stored[kind] = []
            for index in range(self._chunks_to_keep(kind)):
                self._stored[kind].append(self._at(_EXACT[kind], index))
        return self._stored[kind]

    def _at(self, recorder: Recorder, index: int, samples: int | None = None) -> LayerProduct:
        source = self._source
        x, y = source.piece(*self._edges[index])
        return recorder(source.flat, source.loss, self._w, x[:samples], y[:samples], 1.0 / source.n_samples)

    def _chunks_to_keep(self, kind: CallKind) -> int:
        """Return how many chunks' graphs fit into memory."""
        affordable = self._source.samples.linearisation_memory / self._source.graph_bytes[kind]
        return sum(1 for _, stop in self._edges if stop <= affordable)

    def _try_out(self, kind: CallKind) -> None:
        """Find out, once per objective, what the graph of a sample takes in memory, or why there can be none."""
        source = self._source
        if kind in source.graph_bytes or kind in source.by_differences:
            return
        if kind == "ggnvp" and self._lacks_output_hessian():
            return
        gathered = source.ranks.gather(source.samples.within_memory(lambda: self._trial(kind)))
        graph_bytes, problem = max(size for size, _ in gathered), next((text for _, text in gathered if text), "")
        if problem:
            source.by_differences[kind] = problem
            warnings.warn(self.note, stacklevel=5)
        else:
            source.graph_bytes[kind] = graph_bytes

    def _lacks_output_hessian(self) -> bool:
        """Return, and warn once, whether the Hessian has to stand in for a Gauss-Newton matrix that would be zero."""
        source = self._source
        if not source.by_hessian:
            found = [why for why in source.ranks.gather(self._output_hessian_fault()) if why is not None]
            if all(found):
                source.by_hessian.append(found[0])
                warnings.warn(f"{self.note}: it may be indefinite", stacklevel=6)
        return bool(source.by_hessian)

    def _output_hessian_fault(self) -> str | None:
        """Return why the loss has no Hessian in the outputs, "" where it has one, None without samples here."""
        source = self._source
        if not source.edges:
            return None
        start, stop = source.edges[0]
        x, y = source.piece(start, min(stop, start + PROBE_SAMPLES))
        with torch.no_grad():
            z = source.flat.outputs(source.flat.views(self._w), x, "deterministic")
        return output_hessian_fault(source.loss, z, y, source.samples.data.targets)

    def _trial(self, kind: CallKind) -> tuple[float, str]:
        """Return the bytes per sample that the product of a few samples keeps; or why that cannot be recorded."""
        if not self._source.edges:
            return 0.0, ""
        start, stop = self._source.edges[0]
        few = min(stop - start, PROBE_SAMPLES)
        try:
            guess = 3 * UNMEASURED * self._source.piece(start, start + few)[0].nbytes
            product, saved = with_saved_bytes(lambda: self._at(_EXACT[kind], 0, few), self._w, guess)
            symmetric = self._is_symmetric(product)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return 0.0, f"{error}".splitlines()[0][:160]
        if not symmetric:
            return 0.0, "an operator's second derivative is wrong: the matrix is not symmetric"
        return max(saved, 1) / few, ""

    def _is_symmetric(self, product: LayerProduct) -> bool:
        """Compare u'Av with v'Au for random u and v: an operator's wrong double backward shows, a right one rounds."""
        w = self._w
        generator = make_generator(0, "symmetry")
        u, v = torch.randn(2, len(w), generator=generator, dtype=w.dtype).to(w.device)
        images = []
        for vector in (u, v):
            image = torch.zeros_like(w)
            _add(self._source.flat.views(image), product(self._source.flat.views(vector)))
            images.append(image)
        wide = accumulation_dtype(w.device)
        (u, v), (of_u, of_v) = (u.to(wide), v.to(wide)), (image.to(wide) for image in images)
        size = u.norm() * of_v.norm() + v.norm() * of_u.norm()
        apart, rounding = host_read(torch.stack([(u @ of_v - v @ of_u).abs(), size]))
        return not apart > ASYMMETRY * torch.finfo(w.dtype).eps * rounding


_EXACT: dict[CallKind, Recorder] = {"hvp": record_hessian, "ggnvp": record_gauss_newton}
_DIFFERENCES: dict[CallKind, Recorder] = {"hvp": record_hessian_difference, "ggnvp": record_gauss_newton_difference}


def _add(into: Sequence[Tensor], parts: Sequence[Tensor | None]) -> None:
    pairs = [(view, part) for view, part in zip(into, parts, strict=True) if part is not None]
    if pairs:
        torch._foreach_add_([view for view, _ in pairs], [part for _, part in pairs])
