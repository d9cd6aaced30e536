"""The full-batch loss of a model on (a subset of) some data, as a smooth function of one flat vector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.objective.acceleration import ChunkGraphs, CompiledLoss, Evaluate, chunk_graphs
from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.chunks import (
    Data,
    KeptChunks,
    Preprocess,
    bounds,
    check_chunk_size,
    check_rows,
    feed,
    row_order,
)
from subsetopt.objective.evaluation import model_outputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.guard import PROBE_SAMPLES, Probe, probe
from subsetopt.objective.linearisation import ModelLinearisation
from subsetopt.objective.losses import Loss, LossFunction, make_loss
from subsetopt.objective.memory import automatic_chunk_size
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.noise import MINIMUM_CHUNKS, NoiseAccumulator
from subsetopt.objective.preconditioning import make_preconditioner
from subsetopt.objective.protocol import CallKind, Meter, Preconditioner, Purpose
from subsetopt.objective.sampled import SampledPart
from subsetopt.objective.sharding import Edges, Shard, cut_shard

T = TypeVar("T")


class Objective:
    """f(w) = (1/K) sum_i loss_i(w) + (l2/2) ||w||^2 over the K rows `indices` (default: all).

    inputs `(n, ...)`, kept in their dtype and passed through `preprocess` per chunk; targets `(n,)` or `(n, M)`.
    `loss`: "cross_entropy", "mse" or a function (outputs, targets) -> n losses or their mean. `l2` equals the weight
    decay of SGD. `chunk_size` (automatic by default: see `memory.py`) bounds memory; sums over chunks equal the
    unchunked value to rounding, except with BatchNorm, where each chunk is normalised by its own statistics, so that
    the chunk size is part of the function. An automatic size is halved whenever memory runs out in an evaluation.
    `linearisation_memory` (bytes) bounds the graphs kept for products.
    `compile` and `cuda_graphs` (see `acceleration.py`) make evaluations faster on some machines, up to rounding.
    With `track_noise`, `gradient_noise` holds tr(Cov g_i)/K after each gradient (see `noise.py`; at least 8 chunks).
    Several `ranks` share the samples, and add up in one collective per evaluation or product; each is given all data
    and keeps its part. Every rank returns, and charges for, the whole. `edges` are the chunks of this rank's part.

    Raises `ModelError`, `DataError` or `SettingError` at once for whatever does not fit.
    """

    def __init__(
        self,
        model: nn.Module | FlatModel,
        inputs: Tensor,
        targets: Tensor,
        loss: str | LossFunction | Loss = "cross_entropy",
        l2: float = 0.0,
        indices: Tensor | Sequence[int] | None = None,
        chunk_size: int | None = None,
        *,
        preprocess: Preprocess | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        meter: Meter | None = None,
        check_deterministic: bool = True,
        linearisation_memory: int = 2**30,
        track_noise: bool = False,
        allow_tf32: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        if not (isinstance(l2, int | float) and math.isfinite(l2) and l2 >= 0):
            raise SettingError("l2", l2, "must be a finite number >= 0", "try 1e-4")
        self.flat = _flat_model(model, dtype, device)
        self.loss, self.l2, self.allow_tf32, self.track_noise = make_loss(loss), float(l2), allow_tf32, track_noise
        self.meter: Meter = CountingMeter() if meter is None else meter
        self._gradient_noise: Tensor | None = None
        self.by_differences: dict[CallKind, str] = {}
        self.graph_bytes: dict[CallKind, float] = {}
        self.preprocess, self._linearisation_memory = preprocess, linearisation_memory
        self.ranks = Ranks() if ranks is None else ranks
        self.rows = self._ordered_rows(check_rows(indices, inputs, targets), len(inputs))
        self._samples = len(inputs) if self.rows is None else len(self.rows)
        self._accumulate = accumulation_dtype(self.flat.device)
        self._data: Data
        self._shard: Shard
        self.edges: Edges
        self._take(inputs, targets, check_chunk_size(chunk_size), check_deterministic)
        self._chunks = KeptChunks(self._data, self.edges)
        self._compiled = CompiledLoss(self.flat, self.loss, self._accumulate) if compile else None
        self._graphs: ChunkGraphs | None = None
        if cuda_graphs and not track_noise:
            self._graphs = chunk_graphs(self.flat, self.loss, self.n_samples, self._accumulate)

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.flat.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of w and of gradients."""
        return self.flat.dtype

    @property
    def device(self) -> torch.device:
        """The device of w and of gradients."""
        return self.flat.device

    @property
    def n_samples(self) -> int:
        """K, the number of samples, duplicates included."""
        return self._samples

    @property
    def identity(self) -> Hashable:
        """Equal for the same function, also in another process; differs for other rows, data, loss, l2 or model."""
        return self._digest, self._data.version

    @property
    def gradient_noise(self) -> Tensor:
        """tr(Cov g_i) / K at the point of the last gradient, a float64 scalar tensor on the device.

        Raises `SettingError` without `track_noise`, or before the first gradient.
        """
        if self._gradient_noise is None:
            raise SettingError(
                "track_noise", self.track_noise, "no gradient noise yet", "set it, and call for a gradient"
            )
        return self._gradient_noise

    def initial(self) -> Tensor:
        """Return a fresh copy of the model's own parameters, shape (P,)."""
        return self.flat.initial()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w) as a float64 scalar tensor on the device, without synchronising."""
        self.meter.charge("forward", self.n_samples, purpose)
        with exact_arithmetic(self.device, self.allow_tf32), torch.no_grad():
            parameters = self.flat.views(self.flat.check(w).detach())

            def work() -> Tensor:
                total = self._zero()
                with self.flat.at(parameters, "deterministic") as evaluate:
                    for x, y in self._chunks:
                        total += self._chunk_loss(evaluate, parameters, x, y)
                return total

            total = self._within_memory(work)
            self.ranks.sum_(total)
            return self._penalised(total / self.n_samples, w)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), a float64 scalar tensor, and its gradient, a new tensor of shape (P,), without synchronising."""
        self.meter.charge("gradient", self.n_samples, purpose)
        with exact_arithmetic(self.device, self.allow_tf32):
            value, gradient, noise = self._within_memory(lambda: self._own_gradient(w))
            between = [] if noise is None else [noise.between]
            self.ranks.sum_(gradient, value, *between)
            if noise is not None:
                self._gradient_noise = noise.estimate(gradient, *between)
            if self.l2 != 0:
                gradient.add_(w.detach(), alpha=self.l2)
            return self._penalised(value, w), gradient

    def linearise(self, w: Tensor) -> ModelLinearisation:
        """Return curvature products at w; the work is done, and charged, when the first product is asked for."""
        return ModelLinearisation(self, w, self._linearisation_memory)

    def part(self, share: float, generator: torch.Generator) -> SampledPart:
        """Return a random part of the samples, for curvature at less cost; the same where `generator` is."""
        return SampledPart(self, self._data, share, generator, self._linearisation_memory)

    def preconditioner(self, kind: str) -> Preconditioner:
        """Return factors, not estimated yet, that approximate the Gauss-Newton matrix: "kfac" or "diagonal"."""
        return make_preconditioner(kind, self.flat, self.loss)

    def outputs(self, w: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the model's outputs in eval mode for `inputs`; by default for this rank's samples, in their order."""
        source = self._data
        if inputs is not None:
            source = Data(inputs, None, None, self.device, self.dtype, self.preprocess)
        return model_outputs(self.flat, w, source, self.chunk_size, self.meter, "evaluation", self.allow_tf32)

    def chunk(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one chunk, as the model gets them."""
        return self.piece(*self.edges[index])

    def piece(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of samples `start` to `stop` of this rank, as the model gets them."""
        return self._chunks[start, stop]

    def cut_to(self, chunk_size: int) -> None:
        """Cut this rank's samples into chunks of at most `chunk_size`, where chunks are not part of the function."""
        edges = bounds(self._shard.stop - self._shard.start, chunk_size)
        self._shard = replace(self._shard, edges=edges, all_edges=edges)
        self.edges, self.chunk_size = edges, self._shard.chunk_size
        self._chunks = KeptChunks(self._data, edges)

    def charge_product(self, kind: CallKind, samples: int) -> None:
        """Charge work done for curvature products."""
        self.meter.charge(kind, samples, "product")

    def _own_gradient(self, w: Tensor) -> tuple[Tensor, Tensor, NoiseAccumulator | None]:
        """Return what this rank's samples contribute to loss and gradient."""
        leaves = self.flat.leaves(w)
        gradient = torch.zeros_like(w, requires_grad=False)
        if self._graphs is not None and (value := self._graphs.sum(w, gradient, self._chunks)) is not None:
            return value, gradient, None
        if self.track_noise:
            value, noise = self._noisy_sum(leaves, gradient)
            return value, gradient, noise
        return self._sum(leaves, gradient, self._chunks), gradient, None

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do `work` on all chunks; where memory runs out, with chunks half as large, from then on."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if not self._may_halve or self.chunk_size == 1:
                    raise SettingError(
                        "chunk_size", self.chunk_size, "its activations do not fit into the device's memory",
                        "BatchNorm and the noise test keep their chunks; set a smaller one or use a smaller model",
                    ) from error  # fmt: skip
            # Out of the handler, which holds on to the tensors of the failed attempt.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.cut_to(self.chunk_size // 2)
            self.halvings += 1

    def _sum(self, leaves: list[Tensor], gradient: Tensor, pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        for leaf, view in zip(leaves, self.flat.views(gradient), strict=True):
            leaf.grad = view
        total = self._zero()
        with self.flat.at(leaves, "deterministic") as evaluate:
            for x, y in pieces:
                part = self._chunk_loss(evaluate, leaves, x, y) / self.n_samples
                # Gradients are added straight into the flat buffer that the leaves' .grad are views of.
                part.backward(inputs=leaves)  # type: ignore[no-untyped-call] # torch leaves it unannotated
                total += part.detach()
        return total

    def _noisy_sum(self, leaves: list[Tensor], gradient: Tensor) -> tuple[Tensor, NoiseAccumulator]:
        sizes = [stop - start for start, stop in self._shard.all_edges]
        noise = NoiseAccumulator(sizes, self._accumulate, self._shard.first)
        total = self._zero()
        for piece in self._chunks:
            part = torch.zeros_like(gradient)
            total += self._sum(leaves, part, [piece])
            noise.add(part)
            gradient += part
        return total, noise

    def _chunk_loss(self, evaluate: Evaluate, parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        if self._compiled is not None:
            return self._compiled(evaluate, parameters, x, y)
        return self.loss.total(evaluate(x), y, self._accumulate)

    def _penalised(self, value: Tensor, w: Tensor) -> Tensor:
        if self.l2 == 0:
            return value
        norm: Tensor = torch.linalg.vector_norm(w.detach(), dtype=self._accumulate)
        return value.add_(norm.square_(), alpha=0.5 * self.l2)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=self._accumulate, device=self.device)

    def _ordered_rows(self, rows: Tensor | None, n: int) -> Tensor | None:
        if rows is None and not (self.flat.batch_dependent or self.track_noise):
            return None
        rows = torch.arange(n) if rows is None else rows.cpu()
        return rows[row_order(len(rows))]

    def _take(self, inputs: Tensor, targets: Tensor, chunk_size: int | None, check_deterministic: bool) -> None:
        """Check the data, cut the chunks, and keep this rank's part of the data on the device."""
        alone = self.ranks.size == 1
        # With several ranks the whole stays where it is, for its fingerprint and for checks that need all targets.
        whole = self._part(inputs, targets, 0, self._samples, self.device if alone else inputs.device)
        self._described = whole
        few = min(self._samples, PROBE_SAMPLES)
        head = whole if alone else self._part(inputs, targets, 0, few)
        head.require_finite()
        told = self._probe(head, whole.targets, few, check_deterministic)
        self.n_outputs = told.n_outputs
        self._shard = self._cut(chunk_size, told.bytes_per_sample)
        self._may_halve = chunk_size is None and not (self.flat.batch_dependent or self.track_noise)
        self.halvings = 0
        self.edges, self.chunk_size = self._shard.edges, self._shard.chunk_size
        self._data = whole if alone else self._part(inputs, targets, self._shard.start, self._shard.stop)
        if not alone:
            self._data.require_finite()
            _ = self._digest
            self._described = self._data

    def _part(self, inputs: Tensor, targets: Tensor, start: int, stop: int, device: torch.device | None = None) -> Data:
        if self.rows is None:
            inputs, targets, rows = inputs[start:stop], targets[start:stop], None
        else:
            rows = self.rows[start:stop]
        data = Data(inputs, targets, rows, device or self.device, self.dtype, self.preprocess)
        data.targets = self.loss.prepare(data.targets, self.dtype)
        return data

    def _probe(self, head: Data, all_targets: Tensor, few: int, check_deterministic: bool) -> Probe:
        self.meter.charge("forward", few * (2 if check_deterministic else 1), "calibration")
        with exact_arithmetic(self.device, self.allow_tf32):
            x, y = head.inputs(0, few), head.targets[:few]
            return probe(self.flat, self.loss, x, y, all_targets, check_deterministic)

    def _cut(self, chunk_size: int | None, bytes_per_sample: float) -> Shard:
        self.preferred_chunk_size = automatic_chunk_size(bytes_per_sample, self.device, self.flat.batch_dependent)
        chunk_size = chunk_size or self.preferred_chunk_size
        if self.track_noise:
            if self.n_samples < MINIMUM_CHUNKS:
                raise SettingError("track_noise", True, f"needs at least {MINIMUM_CHUNKS} samples", "use more samples")
            chunk_size = min(chunk_size, self.n_samples // MINIMUM_CHUNKS)
        # Chunks that are part of the function, or of the noise estimate, are the same for any number of ranks.
        shard = cut_shard(self._samples, chunk_size, self.ranks, self.flat.batch_dependent or self.track_noise)
        if self.flat.batch_dependent and shard.all_edges[-1][1] - shard.all_edges[-1][0] < 2:
            raise SettingError(
                "chunk_size", chunk_size, "BatchNorm needs two samples in every chunk", "use larger ones"
            )
        return shard

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        preprocess = getattr(self.preprocess, "__qualname__", repr(self.preprocess))
        shape = self._shard.all_edges if self.flat.batch_dependent else ()
        digest.update(f"{self.flat.description}|{self.loss.name}|{self.l2!r}|{preprocess}|{shape}".encode())
        self._described.fingerprint(digest)
        for constant in self.flat.constants():
            feed(digest, constant)
        return digest.hexdigest()


def _flat_model(
    model: nn.Module | FlatModel, dtype: torch.dtype | None, device: torch.device | str | None
) -> FlatModel:
    if not isinstance(model, FlatModel):
        return FlatModel(model, dtype, device)
    if dtype not in (None, model.dtype):
        raise SettingError("dtype", dtype, f"the FlatModel given has {model.dtype}", "leave dtype out")
    if device is not None and torch.device(device).type != model.device.type:
        raise SettingError("device", str(device), f"the FlatModel given is on {model.device}", "leave device out")
    return model
