"""The samples of an objective: checked once, in a fixed order, cut into chunks, and shared over ranks."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.inputs import Inputs, Stored, cut
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.chunks import (
    KeptChunks,
    PlacedSamples,
    Preprocess,
    bounds,
    check_chunk_size,
    check_rows,
    row_order,
)
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.guard import PROBE_SAMPLES, Probe, probe
from subsetopt.objective.losses import Loss
from subsetopt.objective.memory import MemoryLimits, automatic_chunk_size
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.objective.protocol import Meter
from subsetopt.objective.sharding import Edges, Shard, cut_shard
from subsetopt.objective.weighting import WeightedLoss, WeightedTargets

T = TypeVar("T")


class GraphHolder(Protocol):
    """Whoever keeps graphs that can be recorded again."""

    def release(self) -> bool:
        """Give them up, and keep fewer from now on; False where there were none."""


class Samples:
    """The `count` rows `indices` (default: all) of inputs `(n, ...)` and targets, as chunks of model inputs.

    Iterating yields (inputs, targets) of this rank's chunks, as the model gets them; `data` are this rank's samples on
    the device. `rows` is the order of all samples, None for that of the data: that given, but where chunks are part of
    the function (BatchNorm, `track_noise`) a random one. A `chunk_size` of None is chosen for `flat`, within `limits`,
    and halved when memory runs out. `weights` are the user's, one per row of the data; `loss` is that of samples which
    come with their factors, where they do not all count alike. A few samples are evaluated, charged to `meter` as
    calibration, which tells `n_outputs`. `factors`, one per row of the data, stand in for those that loss and weights
    make.

    Raises `ModelError`, `DataError` or `SettingError` for whatever does not fit.
    """

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        inputs: Stored,
        targets: Tensor,
        indices: Tensor | Sequence[int] | None,
        chunk_size: int | None,
        *,
        preprocess: Preprocess | None,
        meter: Meter,
        ranks: Ranks,
        track_noise: bool,
        check_deterministic: bool,
        allow_tf32: bool,
        linearisation_memory: int,
        limits: MemoryLimits,
        weights: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> None:
        self._flat, self.loss, self._preprocess, self._ranks = flat, loss, preprocess, ranks
        self._factors: Tensor | None = None
        self._track_noise, self.limits, self._linearisation_memory = track_noise, limits, linearisation_memory
        self._holder: weakref.ref[GraphHolder] | None = None
        self._whole_chunks = flat.batch_dependent or track_noise
        self._may_halve = check_chunk_size(chunk_size) is None and not self._whole_chunks
        self.rows = self._ordered(check_rows(indices, inputs, targets), len(inputs))
        self.count = len(inputs) if self.rows is None else len(self.rows)
        alone, few = ranks.size == 1, min(self.count, PROBE_SAMPLES)
        # With several ranks the whole stays where it is, for its fingerprint and for checks that need all targets.
        whole = self._part(inputs, targets, 0, self.count, stay=not alone)
        self._factors = loss.factors(whole.targets, self._chosen(weights)) if factors is None else self._chosen(factors)
        if self._factors is not None:
            self.loss = WeightedLoss(loss)
            whole.targets = self._weighted(whole.targets, 0, self.count)
        head = whole if alone else self._part(inputs, targets, 0, few)
        head.require_finite()
        meter.charge("forward", few * (2 if check_deterministic and not flat.batch_dependent else 1), "calibration")
        meter.charge("gradient", few, "calibration")
        probe = self._probe(head, whole.targets, few, check_deterministic, allow_tf32)
        self.n_outputs, self.bytes_per_sample = probe.n_outputs, probe.bytes_per_sample
        self.preferred_chunk_size = automatic_chunk_size(probe.bytes_per_sample, flat.device, flat.batch_dependent)
        self._shard = self._cut(chunk_size or self.preferred_chunk_size)
        self.data, self._described = whole, whole
        if not alone:
            self.data = self._part(inputs, targets, self._shard.start, self._shard.stop)
            self.data.require_finite()
            _ = self.digest  # while the whole is at hand
            self._described = self.data
        self._chunks = KeptChunks(self.data, self.edges)
        self._keep_to_limits()

    @property
    def factors(self) -> Tensor | None:
        """How much each sample counts in the mean, float64 `(count,)` on the CPU; None where all count 1."""
        return self._factors

    @property
    def edges(self) -> Edges:
        """The chunks of this rank's samples, counted from its first one."""
        return self._shard.edges

    @property
    def span(self) -> tuple[int, int]:
        """Which samples this rank has: (start, stop) in the order of all."""
        return self._shard.start, self._shard.stop

    @property
    def all_sizes(self) -> list[int]:
        """Sizes of the chunks of all ranks, where chunks are part of the function; otherwise of this rank's own."""
        return [stop - start for start, stop in self._shard.all_edges]

    @property
    def first_chunk(self) -> int:
        """The place of this rank's first chunk in `all_sizes`."""
        return self._shard.first

    @property
    def chunk_size(self) -> int:
        """Samples in this rank's largest chunk."""
        return self._shard.chunk_size

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        return iter(self._chunks)

    def piece(self, start: int, stop: int) -> tuple[Inputs, Tensor]:
        """Return inputs and targets of samples `start` to `stop` of this rank, as the model gets them."""
        return self._chunks[start, stop]

    @property
    def linearisation_memory(self) -> int:
        """What graphs kept for curvature products may take."""
        limit = self.limits.graph_bytes
        return self._linearisation_memory if limit is None else min(limit, self._linearisation_memory)

    def follow(self, holder: GraphHolder) -> None:
        """Know whose graphs are to be given up when memory runs out: those of the last linearisation."""
        self._holder = weakref.ref(holder)

    def within_memory(self, work: Callable[[], T]) -> T:
        """Do `work` on all chunks; where memory runs out, again without kept graphs, or else with chunks half as large.

        That holds from then on, and for all objectives that share the limits.
        """
        while True:
            self._keep_to_limits()
            try:
                return work()
            except torch.OutOfMemoryError as error:
                holder = self._holder() if self._holder else None
                released = holder is not None and holder.release()
                if not released and (not self._may_halve or self.chunk_size == 1):
                    raise SettingError(
                        "chunk_size",
                        self.chunk_size,
                        "its activations do not fit into the device's memory",
                        "BatchNorm and the noise test keep their chunks; set a smaller one or use a smaller model",
                    ) from error
            # Out of the handler, which holds on to the tensors of the failed attempt.
            if self._flat.device.type == "cuda":
                torch.cuda.empty_cache()
            if not released:
                self._cut_to(self.chunk_size // 2)
                self.limits.chunk_size = self.chunk_size

    @cached_property
    def digest(self) -> str:
        """Equal for the same samples in the same order, for any number of ranks."""
        digest = hashlib.blake2b(digest_size=16)
        preprocess = getattr(self._preprocess, "__qualname__", repr(self._preprocess))
        digest.update(f"{preprocess}|{self._shard.all_edges if self._flat.batch_dependent else ()}".encode())
        self._described.fingerprint(digest)
        return digest.hexdigest()

    def _keep_to_limits(self) -> None:
        limit = self.limits.chunk_size
        if self._may_halve and limit is not None and self.chunk_size > limit:
            self._cut_to(limit)

    def _cut_to(self, chunk_size: int) -> None:
        edges = bounds(self._shard.stop - self._shard.start, chunk_size)
        self._shard = replace(self._shard, edges=edges, all_edges=edges)
        self._chunks = KeptChunks(self.data, edges)

    def _ordered(self, rows: Tensor | None, n: int) -> Tensor | None:
        if not self._whole_chunks:
            return None if rows is None else rows.cpu()
        rows = torch.arange(n, device="cpu") if rows is None else rows.cpu()
        return rows[row_order(len(rows))]

    def _part(self, inputs: Stored, targets: Tensor, start: int, stop: int, stay: bool = False) -> PlacedSamples:
        if self.rows is None:
            inputs = cut(inputs, start, stop)
            targets, rows = targets[start:stop], None
        else:
            rows = self.rows[start:stop]
        device = inputs.device if stay else self._flat.device
        data = PlacedSamples(inputs, targets, rows, device, self._flat.dtype, self._preprocess, stay)
        data.targets = self._weighted(self.loss.prepare(data.targets, self._flat.dtype), start, stop)
        return data

    def _chosen(self, weights: Tensor | None) -> Tensor | None:
        return weights if weights is None or self.rows is None else weights[self.rows]

    def _weighted(self, targets: Tensor, start: int, stop: int) -> Tensor:
        """Return targets with the factors of these samples, where samples have any; used like one tensor."""
        if self._factors is None:
            return targets
        factors = self._factors[start:stop].to(targets.device, self._flat.dtype)
        return cast(Tensor, WeightedTargets(targets, factors))

    def _probe(
        self, head: PlacedSamples, all_targets: Tensor, few: int, check_deterministic: bool, allow_tf32: bool
    ) -> Probe:
        with exact_arithmetic(self._flat.device, allow_tf32):
            x, y = head.inputs(0, few), head.targets[:few]
            return probe(self._flat, self.loss, x, y, all_targets, check_deterministic)

    def _cut(self, chunk_size: int) -> Shard:
        if self._track_noise:
            if self.count < MINIMUM_CHUNKS:
                raise SettingError("track_noise", True, f"needs at least {MINIMUM_CHUNKS} samples", "use more samples")
            chunk_size = min(chunk_size, self.count // MINIMUM_CHUNKS)
        # Chunks that are part of the function, or of the noise estimate, are the same for any number of ranks.
        shard = cut_shard(self.count, chunk_size, self._ranks, self._whole_chunks)
        if self._flat.batch_dependent and shard.all_edges[-1][1] - shard.all_edges[-1][0] < 2:
            raise SettingError(
                "chunk_size", chunk_size, "BatchNorm needs two samples in every chunk", "use larger ones"
            )
        return shard
