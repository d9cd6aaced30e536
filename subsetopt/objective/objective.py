"""The full-batch loss of a model on (a subset of) some data, as a smooth function of one flat vector."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from subsetopt.arguments import finite_number, require_switches
from subsetopt.data.weights import checked_weights
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.inputs import Given, Inputs, as_inputs
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.chunk_sums import ChunkSums
from subsetopt.objective.chunks import PlacedSamples, Preprocess, feed
from subsetopt.objective.evaluation import model_outputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.given import bound_to, flat_model_of, require_kinds, samples_of
from subsetopt.objective.linearisation import ModelLinearisation
from subsetopt.objective.losses import Loss, LossFunction, make_loss
from subsetopt.objective.memory import MemoryLimits, keep_freed_memory
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.preconditioning import make_preconditioner
from subsetopt.objective.protocol import CallKind, Meter, Preconditioner, Purpose
from subsetopt.objective.residuals import Residuals
from subsetopt.objective.sampled import SampledPart
from subsetopt.objective.samples import Samples
from subsetopt.objective.sharding import Edges


class Objective:
    """f(w) = (1/K) sum_i loss_i(w) + (l2/2) ||w||^2 over the K rows `indices` (default: all).

    inputs: a tensor `(n, ...)`, or several in a tuple or dict, for a model called as `model(*inputs)` or
    `model(**inputs)`; kept in their dtype and passed through `preprocess` per chunk. targets `(n,)` or `(n, M)`.
    Without targets, `inputs` may be what `as_dataset` takes: a pair, a torch Dataset, a DataLoader, and so on.
    `loss`: "cross_entropy", "mse" or a function (outputs, targets) -> n losses or their mean. `l2` equals the weight
    decay of SGD. `chunk_size` (automatic by default: see `memory.py`) bounds memory; sums over chunks equal the
    unchunked value to rounding, except with BatchNorm, where each chunk is normalised by its own statistics, so that
    the chunk size is part of the function. `linearisation_memory` (bytes) bounds the graphs kept for products. Whenever
    memory runs out, these are bounded more tightly or else an automatic chunk size is halved; `memory_limits` remembers
    that, for all objectives that share it.
    `compile` and `cuda_graphs` (see `acceleration.py`) make evaluations faster on some machines, up to rounding.
    With `track_noise`, `gradient_noise` holds tr(Cov g_i)/K after each gradient (see `noise.py`; at least 8 chunks).
    `sample_factor` `(n,)` are the c_i of f = (1/K) sum_i c_i loss_i as they are, in place of those that weights make.
    Several `ranks` share the samples, and add up in one collective per evaluation or product; each is given all data
    and keeps its part. Every rank returns, and charges for, the whole. `edges` are the chunks of this rank's part.

    Threads may share an objective: they wait for each other, and each gets what it would get alone.

    Raises `ModelError`, `DataError` or `SettingError` at once for whatever does not fit.
    """

    def __init__(
        self,
        model: nn.Module | FlatModel,
        inputs: Given | object,
        targets: Tensor | None = None,
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
        memory_limits: MemoryLimits | None = None,
        sample_weight: Any = None,
        sample_factor: Tensor | None = None,
    ) -> None:
        l2 = finite_number("l2", l2, "1e-4")
        kind = make_loss(loss)
        require_kinds(model, preprocess, device, dtype)
        given, targets = samples_of(inputs, targets, kind)
        require_switches(track_noise=track_noise, allow_tf32=allow_tf32, check_deterministic=check_deterministic)
        require_switches(compile=compile, cuda_graphs=cuda_graphs)
        self.flat = flat_model_of(model, dtype, device)
        self.loss, self.l2, self.allow_tf32, self.track_noise = kind, l2, allow_tf32, track_noise
        self.meter: Meter = CountingMeter() if meter is None else meter
        self._gradient_noise: dict[int, Tensor] = {}  # by thread: each reads that of its own last gradient
        self.by_differences: dict[CallKind, str] = {}
        self.by_hessian: list[str] = []  # why the Hessian stands in for a Gauss-Newton matrix
        self.graph_bytes: dict[CallKind, float] = {}
        self.flat, given, targets, self.preprocess = bound_to(self.flat, kind, given, targets, preprocess)
        self.ranks = Ranks() if ranks is None else ranks
        keep_freed_memory()
        self.samples = Samples(
            self.flat,
            self.loss,
            given,
            targets,
            indices,
            chunk_size,
            preprocess=self.preprocess,
            meter=self.meter,
            ranks=self.ranks,
            track_noise=track_noise,
            check_deterministic=check_deterministic,
            allow_tf32=allow_tf32,
            linearisation_memory=linearisation_memory,
            limits=memory_limits or MemoryLimits(),
            weights=checked_weights(sample_weight, len(given)),
            factors=sample_factor,
        )
        self.loss = self.samples.loss
        self._sums = ChunkSums(
            self.flat, self.loss, self.samples, track_noise=track_noise, compile=compile, cuda_graphs=cuda_graphs
        )

    def with_l2(self, l2: float) -> Self:
        """Return the objective with another L2 strength, on the same samples, which are not checked again."""
        other = copy.copy(self)
        other.l2 = finite_number("l2", l2, "1e-4")
        other._gradient_noise = {}
        other.__dict__.pop("_digest", None)
        return other

    @classmethod
    def from_residual(
        cls,
        model: nn.Module | FlatModel,
        residual: Residuals | Mapping[str, Any] | Callable[..., Any],
        points: Any = None,
        **options: Any,
    ) -> Objective:
        """Return the objective sum over terms of weight * mean |residual(model, points)|^2, plus the L2 term.

        `residual` is one function with its `points`, or {"interior": (function, points, weight), ...}, or `Residuals`,
        which see. `options` are those of an `Objective`.
        """
        terms = residual if isinstance(residual, Residuals) else Residuals(residual, points)
        return cls(model, terms.points, terms.term, terms, **options)

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
        return self.samples.count

    @property
    def n_outputs(self) -> int:
        """M, the number of outputs per sample."""
        return self.samples.n_outputs

    @property
    def rows(self) -> Tensor | None:
        """The order of all samples, as rows of the data given; None where that is theirs."""
        return self.samples.rows

    @property
    def edges(self) -> Edges:
        """The chunks of this rank's samples, counted from its first one."""
        return self.samples.edges

    @property
    def chunk_size(self) -> int:
        """Samples in this rank's largest chunk."""
        return self.samples.chunk_size

    @property
    def identity(self) -> Hashable:
        """Equal for the same function, also in another process; differs for other rows, data, loss, l2 or model."""
        return self._digest, self.samples.data.version

    @property
    def gradient_noise(self) -> Tensor:
        """tr(Cov g_i) / K at the point of the last gradient, a float64 scalar tensor on the device.

        Raises `SettingError` without `track_noise`, or before the first gradient.
        """
        if threading.get_ident() not in self._gradient_noise:
            raise SettingError(
                "track_noise", self.track_noise, "no gradient noise yet", "set it, and call for a gradient"
            )
        return self._gradient_noise[threading.get_ident()]

    def initial(self) -> Tensor:
        """Return a fresh copy of the model's own parameters, shape (P,)."""
        return self.flat.initial()

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w) as a float64 scalar tensor on the device, without synchronising."""
        with self.flat.exclusive, exact_arithmetic(self.device, self.allow_tf32), torch.no_grad():
            self.meter.charge("forward", self.n_samples, purpose)
            total = self.samples.within_memory(lambda: self._sums.loss(w))
            self.ranks.sum_(total)
            return self._penalised(total / self.n_samples, w)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w), a float64 scalar tensor, and its gradient, a new tensor of shape (P,), without synchronising."""
        with self.flat.exclusive, exact_arithmetic(self.device, self.allow_tf32):
            self.meter.charge("gradient", self.n_samples, purpose)
            value, gradient, noise = self.samples.within_memory(lambda: self._sums.mean_gradient(w))
            between = [] if noise is None else [noise.between]
            self.ranks.sum_(gradient, value, *between)
            if noise is not None:
                self._gradient_noise[threading.get_ident()] = noise.estimate(gradient, *between)
            if self.l2 != 0:
                gradient.add_(w.detach(), alpha=self.l2)
            return self._penalised(value, w), gradient

    def linearise(self, w: Tensor) -> ModelLinearisation:
        """Return curvature products at w; the work is done, and charged, when the first product is asked for."""
        return ModelLinearisation(self, w)

    def part(self, share: float, generator: torch.Generator) -> SampledPart:
        """Return a random part of the samples, for curvature at less cost; the same where `generator` is."""
        return SampledPart(self, share, generator)

    def preconditioner(self, kind: str) -> Preconditioner:
        """Return factors, not estimated yet, that approximate the Gauss-Newton matrix: "kfac" or "diagonal"."""
        if kind == "kfac" and self.flat.is_called_by_loss:
            raise SettingError(
                "preconditioner",
                kind,
                "needs layers that are called once with the samples, and the loss calls the model itself",
                "use 'diagonal' or 'none'",
            )
        return make_preconditioner(kind, self.flat, self.loss)

    def outputs(self, w: Tensor, inputs: Given | None = None) -> Tensor:
        """Return the model's outputs in eval mode for `inputs`; by default for this rank's samples, in their order."""
        source = self.samples.data
        if inputs is not None:
            fitting = self.flat.fitting(as_inputs(inputs), self.preprocess)
            source = PlacedSamples(fitting, None, None, self.device, self.dtype, self.preprocess)
        return model_outputs(self.flat, w, source, self.chunk_size, self.meter, "evaluation", self.allow_tf32)

    def chunk(self, index: int) -> tuple[Inputs, Tensor]:
        """Return inputs and targets of one chunk, as the model gets them."""
        return self.piece(*self.edges[index])

    def piece(self, start: int, stop: int) -> tuple[Inputs, Tensor]:
        """Return inputs and targets of samples `start` to `stop` of this rank, as the model gets them."""
        return self.samples.piece(start, stop)

    def charge_product(self, kind: CallKind, samples: int) -> None:
        """Charge work done for curvature products."""
        with self.flat.exclusive:
            self.meter.charge(kind, samples, "product")

    def _penalised(self, value: Tensor, w: Tensor) -> Tensor:
        if self.l2 == 0:
            return value
        norm: Tensor = torch.linalg.vector_norm(w.detach(), dtype=self._sums.dtype)
        return value.add_(norm.square_(), alpha=0.5 * self.l2)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.flat.description}|{self.loss.name}|{self.l2!r}|{self.samples.digest}".encode())
        for constant in self.flat.constants():
            feed(digest, constant)
        return digest.hexdigest()
