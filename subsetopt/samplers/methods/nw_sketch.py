"""Nadaraya-Watson sketch sampling: importance estimated from similar samples, at no model call per draw.

## What it does
Keeps a hash sketch of the losses seen. A draw asks the sketch for the smoothed loss of *every* sample through stored
hash codes, and samples in proportion to it, mixed with a uniform share. Reconstruction.

## Formula
s_hat(x) = sum_i k(x, x_i) s_i / sum_i k(x, x_i), estimated by sum_r A_r[h_r(x)] / sum_r C_r[h_r(x)]; the mean score
where the count is zero. P_i = (1 - eps) s_hat_i / sum s_hat + eps / N, drawn with replacement; weights 1 / (N P_i).
A and C decay by gamma every epoch, because losses drift.

## Settings
- `fraction` (0.3): draws per epoch as a share of N.
- `estimator` ("sketch"): "sketch", or "exact" for the kernel regression that the sketch stands for, to compare with it:
  the collision probabilities of all pairs of inputs, computed once and kept (4 N^2 bytes; 4 N D in a checkpoint).
- `codes` ("inputs"): hash the training inputs once (`bind`); "features": hash penultimate features, refreshed
  whenever a sample is visited.
- `hash` ("srp"): "srp" (signed random projections, angular kernel) or "p-stable" (L2 kernel).
- `repetitions` (16): R, tables; the estimate's error falls like 1 / sqrt(R).
- `hashes` (6): hash functions concatenated per table; more make the kernel narrower.
- `width` (1.0): cell width of "p-stable", in units of the root mean square distance from the mean input.
- `decay` (0.9): gamma, per epoch.
- `mixing` (0.1): eps, the uniform share.
- `score` ("loss"): "loss", or "gradient" for |p - y|, the size of the gradient at the outputs.
- `query_every` (50): steps between two questions to the sketch; P is fixed in between.
- `correction` ("importance"): "importance", "none" or "self-normalised".

## True cost
`fraction` epoch-equivalents per epoch. Scores come from the training forward; a draw costs N R table reads every
`query_every` steps, hashing the inputs once costs 2 N D R `hashes` flops. N R codes of four bytes are stored. With
"exact" the pairs cost 2 N^2 D flops once, and every question 4 N^2.

## Source
Daghaghi et al. 2023, arXiv 2311.13583; sketches: Coleman and Shrivastava 2020, arXiv 1912.02283.

## Deviations from the official code
Reconstruction: their code was not at hand. Hashing fresh last-layer features would cost a forward, after which the
exact loss is free; so codes are stored, and the default hashes raw inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from subsetopt.data.given.memory import require_room
from subsetopt.errors import DataError, SettingError
from subsetopt.objective.tally import note_flops
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.credit import credit
from subsetopt.samplers.draws import draw_with_replacement, importance_weights, wide_dtype
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import residuals
from subsetopt.samplers.protocol import Batch, Quantity, Seen
from subsetopt.samplers.sketch import (
    Hash,
    collision_kernel,
    draw_hash,
    hash_rows,
    new_table,
    require_memory_for_pairs,
    row_statistics,
    sketch_query,
    sketch_update,
)
from subsetopt.seeding import make_generator
from subsetopt.settings import CheckedSettings, Correction, rows_of, setting

_PSTABLE_BUCKETS = 4096
_MEAN_RATE = 0.05  # of the running mean feature; angles are taken around it


@dataclass(frozen=True)
class NWSketchSettings(CheckedSettings):
    """See the method card."""

    fraction: float = setting(0.3, above=0, at_most=1)
    estimator: Literal["sketch", "exact"] = "sketch"
    codes: Literal["inputs", "features"] = "inputs"
    hash: Literal["srp", "p-stable"] = "srp"
    repetitions: int = setting(16, at_least=1)
    hashes: int = setting(6, at_least=1, at_most=16)  # 2^hashes buckets per table
    width: float = setting(1.0, above=0)
    decay: float = setting(0.9, above=0, at_most=1)
    mixing: float = setting(0.1, at_least=0, at_most=1)
    score: Literal["loss", "gradient"] = "loss"
    query_every: int = setting(50, at_least=1)
    correction: Correction = "importance"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing == 0 and self.correction != "none":
            raise SettingError("mixing", self.mixing, "lets weights 1/(N P) grow without bound", "give e.g. 0.1")
        if self.estimator == "exact" and self.codes == "features":
            raise SettingError(
                "estimator", "exact", "compares inputs, not features", "use 'sketch', or codes = 'inputs'"
            )


@register("nw-sketch", "importance from a hash sketch of losses (Nadaraya-Watson), no model call per draw")
class NWSketch(QueueSampler):
    """Stored codes, one table of score sums and counts, and draws in blocks of `query_every` steps."""

    Settings = NWSketchSettings
    settings: NWSketchSettings
    granularity = "batch"
    persistent = ("table", "codes", "coded", "dimension", "feature_mean", "rows", "_decayed")

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        s = self.settings
        self.epoch_rows = rows_of(s.fraction, n_samples)
        if self.drop_last and self.epoch_rows > batch_size:  # else every short last block would be a batch of its own
            self.epoch_rows -= self.epoch_rows % batch_size
        self.blocks_per_epoch = max(1, math.ceil(self.steps_per_epoch / s.query_every))
        self.unbiased = s.correction == "importance"
        self.normalise_batches = s.correction == "self-normalised"
        self.needs_data = s.codes == "inputs"
        scored: Quantity = "losses" if s.score == "loss" else "probabilities"
        self.needs = frozenset((scored, "features") if s.codes == "features" else (scored,))
        self.exact = s.estimator == "exact"  # every row is a bucket of its own, and all are read through the kernel
        if self.exact:
            require_memory_for_pairs(n_samples, device)
        buckets = n_samples if self.exact else 2**s.hashes if s.hash == "srp" else _PSTABLE_BUCKETS
        repetitions = 1 if self.exact else s.repetitions
        bytes_each = 8 * buckets + 4 * n_samples  # sums and counts in float32, codes in int32
        require_room("repetitions", s.repetitions, bytes_each * repetitions, "use 16 to 100", device)
        self.table = new_table(repetitions, buckets, device)
        self.codes = torch.zeros(n_samples, repetitions, dtype=torch.int32, device=device)
        self.coded = torch.zeros(n_samples, dtype=torch.bool, device=device)
        self.dimension: int | None = None
        self.feature_mean = torch.zeros(0, device=device)
        self._decayed = 0
        self._hash: Hash | None = None
        self.rows = torch.zeros(0, 0, device=device)  # standardised inputs, where all pairs of them are compared
        self._kernel: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """P_i `(N,)` from the sketch as it is now."""
        sums, counts = self._query()
        total, count = self.table.to(wide_dtype(self.device)).sum(0)
        mean = torch.where(count > 0, total / count, 1.0)
        estimate = torch.where(self.coded & (counts > 0), sums.to(mean) / counts.to(mean), mean).clamp_min(0)
        share = estimate / estimate.sum()
        share = torch.where(share.isfinite(), share, 1 / self.n_samples)
        mixing = self.settings.mixing
        return share.mul(1 - mixing).add(mixing / self.n_samples)

    def bind(self, inputs: Tensor) -> None:
        """Hash the training inputs `(N, ...)` where `codes` is "inputs"; raises `DataError` for another N."""
        if not self.needs_data:
            return
        if len(inputs) != self.n_samples:
            raise DataError(f"inputs have {len(inputs)} rows: the sampler was made for {self.n_samples}")
        rows = inputs.detach().to(self.device)
        self.dimension = rows[0].numel()
        mean, scale = row_statistics(rows)
        if self.exact:
            self.codes = torch.arange(self.n_samples, dtype=torch.int32, device=self.device)[:, None]
            self.rows, self._kernel = (rows.flatten(1).float() - mean) / scale, None
        else:
            self.codes = hash_rows(self._hashing(), rows, mean, scale)
        self.coded.fill_(True)

    def bind_flops(self, dimension: int) -> int:
        """Return the operations of the projections, 2 N D R hashes, or of all pairs, 2 N^2 D."""
        s = self.settings
        products = self.n_samples if self.exact else s.repetitions * s.hashes
        return 2 * self.n_samples * dimension * products if self.needs_data else 0

    def draw_block(self) -> Batch:
        """Return the rows of the next `query_every` steps, fewer at the end of an epoch."""
        epoch, block = divmod(self._blocks, self.blocks_per_epoch)
        if self._blocks == 0 and self.needs_data and self.dimension is None:
            warnings.warn("nw-sketch draws uniformly until bind(inputs) gives it hash codes", stacklevel=3)
        if block == 0 and epoch > self._decayed:
            self.table *= self.settings.decay
            self._decayed = epoch
        first = block * self.settings.query_every
        last = min(first + self.settings.query_every, self.steps_per_epoch)
        p = self.probabilities
        indices = draw_with_replacement(p, self._rows_before(last) - self._rows_before(first), self.generator)
        corrected = self.settings.correction != "none"
        return Batch(indices, importance_weights(p[indices], self.n_samples) if corrected else None)

    def learn(self, seen: Seen) -> None:
        """Add the scores of a batch to the sketch, and hash its features anew if `codes` is "features"."""
        credited = credit(seen.indices, self._scores(seen), seen.weights)
        if self.settings.codes == "features":
            if seen.features is None:
                raise SettingError("codes", "features", "observe got no features", "pass them, or use codes = 'inputs'")
            self._recode(seen.indices, seen.features.detach().float().flatten(1))
        # A row without a code has no bucket to go to.
        shares = credited.shares * self.coded[credited.indices]
        sketch_update(self.table, self.codes[credited.indices], credited.values, shares)

    def statistics(self) -> dict[str, Any]:
        """Return the common statistics and the number of samples that have hash codes."""
        return super().statistics() | {"coded_samples": int(self.coded.sum())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; hash functions and pairs are made again when they are next needed."""
        super().load_state_dict({"rows": self.rows, **state})  # states of earlier versions have none
        self._hash = self._kernel = None

    def _rows_before(self, step: int) -> int:
        """Return how many rows of an epoch come before its `step`, where all steps share them evenly."""
        each, longer = divmod(self.epoch_rows, self.steps_per_epoch)
        return step * each + min(step, longer)

    def _query(self) -> tuple[Tensor, Tensor]:
        """Return the sums of scores and of counts `(N,)` that estimate every row."""
        if not self.exact or not len(self.rows):
            return sketch_query(self.table, self.codes)
        if self._kernel is None:
            s = self.settings
            self._kernel = collision_kernel(s.hash, self.rows, s.hashes, s.width)
        note_flops(2 * 2 * self.n_samples**2)
        sums, counts = (self._kernel @ self.table).unbind(1)
        return sums, counts

    def _hashing(self) -> Hash:
        """Return the hash functions, the same for a seed and a dimension, so that they need not be saved."""
        if self._hash is None:
            s, generator = self.settings, make_generator(self.seed, "sketch")
            self._hash = draw_hash(
                s.hash, self.dimension or 1, s.repetitions, s.hashes, generator, self.device, s.width, _PSTABLE_BUCKETS
            )
        return self._hash

    def _recode(self, indices: Tensor, features: Tensor) -> None:
        if indices.ndim == 2:  # the features of a mixture belong to none of its donors
            return
        if self.dimension is None:
            self.dimension = features.shape[1]
            self.feature_mean = features.mean(0)
        self.feature_mean = torch.lerp(self.feature_mean, features.mean(0), _MEAN_RATE)
        centred = features - self.feature_mean
        scale = centred.square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        self.codes[indices] = self._hashing().codes(centred / scale)
        self.coded[indices] = True

    def _scores(self, seen: Seen) -> Tensor:
        if self.settings.score == "loss":
            return seen.losses
        probabilities, targets = seen.probabilities, seen.targets
        if probabilities is None or targets is None:
            raise SettingError("score", "gradient", "observe got no probabilities and targets", "use score = 'loss'")
        if targets.ndim == 2 and seen.weights is not None:
            return torch.stack([_output_gradient(probabilities, donor) for donor in targets.T], dim=1)
        return _output_gradient(probabilities, targets)


def _output_gradient(probabilities: Tensor, targets: Tensor) -> Tensor:
    return residuals(probabilities, targets).square().sum(1).sqrt()
