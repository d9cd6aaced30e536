"""A closure over all batches of a loader: one loss and one gradient, whatever the batch size and number of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DistributedSampler, RandomSampler, WeightedRandomSampler
from tqdm import tqdm

from subsetopt.arguments import require_module
from subsetopt.distributed import Ranks, initialised
from subsetopt.errors import SettingError, UserError
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.optim.batches import batch_size, cut, head, is_pair, moved, tensors

LossFunction = Callable[[Any, Any], Any]

_BATCH_NORM = (
    "full_batch_closure: BatchNorm is in training mode, so that the loss depends on the batches and every call moves "
    "the running statistics; call model.eval() first"
)
_REDUCTIONS = ("mean", "sum", "none")


def full_batch_closure(
    model: nn.Module,
    loss: LossFunction,
    loader: Iterable[Any],
    device: torch.device | str | None = None,
    max_samples: int | None = None,
    *,
    process_group: Any = "default",
) -> Callable[[], Tensor]:
    """Return `closure()` for `optimizer.step`: clears gradients, goes through `loader`, returns the mean loss.

    A batch is (inputs, targets), for `loss(model(inputs), targets)`; any other batch goes to `loss(model, batch)`.
    `loss` is the mean over the samples of a batch, or a module with `reduction="sum"` or `"none"`; each batch counts
    by its number of samples, so that the result does not depend on the batch size. What is no mean over samples (over
    tokens, or weighted) is returned as a pair, (sum of the losses, sum of their weights). Batches are moved to `device`
    (default: that of the model). `max_samples` takes the first so many samples of each rank. Gradients are
    accumulated batch by batch; the loss, a 0-d tensor, in float64.

    Where torch.distributed is initialised, every rank goes through its own part of the data, whatever its size, and
    sums are taken over `process_group` once per call (None: this process alone); a DistributedDataParallel wrapper is
    not used. The first call checks the loss: raises `UserError` for a `loss` that is no mean over samples (class
    weights, `ignore_index`, tokens), a model whose outputs are random (dropout), and a loader that gives other samples
    in each call; it warns of BatchNorm in training mode, whose outputs depend on the batches.
    """
    _check_loader(loader, max_samples)
    require_module("model", model)
    inner = cast(nn.Module, model.module) if isinstance(model, nn.parallel.DistributedDataParallel) else model
    if any(p.is_meta for p in inner.parameters()):
        raise UserError("model: its parameters are on the meta device and hold no numbers; load or initialise it first")
    if not any(p.requires_grad for p in inner.parameters()):
        raise UserError("model: none of its parameters requires a gradient; unfreeze some")
    return _FullBatch(inner, loss, loader, device, max_samples, process_group)


_NO_MEAN = (
    "loss: it is no mean over samples (class weights? ignore_index? tokens?), so that it depends on the "
    'batches; return (sum of losses, sum of weights), or give a module with reduction="sum" or "none"'
)
_NO_GRADIENT = (
    "loss: it does not depend on a parameter that requires a gradient; do not detach it, nor use no_grad or "
    "checkpoints with use_reentrant=True in the model"
)


class _FullBatch:
    """The closure; `_checked` turns True after the first batch, `_compared` after the second call."""

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        loader: Iterable[Any],
        device: torch.device | str | None,
        max_samples: int | None,
        process_group: Any,
    ) -> None:
        self._model, self._loss, self._loader, self._max_samples = model, loss, loader, max_samples
        self._device = torch.device(device) if device is not None else next(model.parameters()).device
        self._process_group, self._checked = process_group, False
        self._content: Tensor | None = None
        self._compared = False
        self._reduction = getattr(loss, "reduction", "mean")
        weights = loss.weight if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None
        if self._reduction == "mean" and weights is not None and bool((weights != weights[0]).any()):
            raise UserError(_NO_MEAN)
        if self._reduction not in _REDUCTIONS:
            raise SettingError("loss", self._reduction, "unknown reduction", f"use one of {', '.join(_REDUCTIONS)}")

    def __call__(self) -> Tensor:
        """Return the mean loss over all samples of all ranks; gradients are in the parameters."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = None
        totals = torch.zeros(2, dtype=accumulation_dtype(self._device), device=self._device)  # of losses, of samples
        content = torch.zeros_like(totals)
        ranks = self._ranks()
        with torch.enable_grad():
            for batch, count in self._batches(ranks):
                if not self._checked:
                    self._check(batch, count)
                if not self._compared:
                    content += _content(batch, totals)
                total, weight = self._sum(batch, count)
                if not total.requires_grad:
                    raise UserError(_NO_GRADIENT)
                total.backward()
                totals += torch.stack(
                    [total.detach().to(totals), torch.as_tensor(weight, device=totals.device).detach().to(totals)]
                )
        self._require_same(content)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        ranks.sum_(totals, *gradients)
        loss, samples = totals.unbind()
        if not samples > 0:
            raise UserError(
                "loader: it gives no samples; a generator can be used once only, give a DataLoader or a list"
            )
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient.div_(samples.to(gradient.real.dtype))
        return loss / samples

    def _require_same(self, content: Tensor) -> None:
        """Refuse a second call that has not seen what the first one did: sums over all rows, in any order."""
        if self._compared:
            return
        before, self._content = self._content, content
        self._compared = before is not None
        if before is not None and float((content - before)[0].abs()) > torch.finfo(content.dtype).eps ** 0.5 * float(
            before[1]
        ):
            raise UserError(
                "loader: two calls gave other samples (random transforms?), and all evaluations must see the same; "
                "leave those out, or give list(loader)"
            )

    def _ranks(self) -> Ranks:
        if self._process_group is None:
            return Ranks()
        return initialised(None if self._process_group == "default" else self._process_group)

    def _batches(self, ranks: Ranks) -> Iterator[tuple[Any, int]]:
        """Yield (batch on the device, its samples); a bar appears where it takes more than a second."""
        left = self._max_samples
        quiet = None if ranks.main else True  # None: silent unless on a terminal
        for batch in tqdm(self._loader, desc="full batch", leave=False, delay=1.0, disable=quiet):
            count = batch_size(batch)
            if is_pair(batch) and isinstance(batch[1], Tensor) and not batch[1].dim():
                raise UserError(
                    "loader: it gives single rows, not batches of them; give a DataLoader with a batch size"
                )
            if not count:
                continue
            if left is not None:
                if left <= 0:
                    return
                batch, count = head(batch, left, count), min(left, count)
                left -= count
            yield moved(batch, self._device), count

    def _sum(self, batch: Any, count: int) -> tuple[Tensor, Any]:
        """Return the sum of the losses of the samples in `batch`, and by what it counts: their number, or weights."""
        if is_pair(batch):
            inputs, targets = batch
            if not self._compared and self._reduction == "mean" and _ignores(self._loss, targets):
                raise UserError(_NO_MEAN)
            return self._total(self._loss(self._model(inputs), targets), count)
        return self._total(self._loss(self._model, batch), count)

    def _total(self, value: Any, count: int) -> tuple[Tensor, Any]:
        weight: Any = count
        if isinstance(value, tuple) and len(value) == 2:
            value, weight = value[0], value[1]
        elif not isinstance(value, Tensor):
            raise UserError(f"loss: it returns {type(value).__name__}; return a tensor, or (sum of losses, weight)")
        elif self._reduction == "none" and value.dim() and len(value) == count:
            return value.reshape(count, -1).mean(1).sum(), count
        else:
            value = value * (count if self._reduction == "mean" and value.numel() == 1 else 1)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"loss: it returns shape {shape}; return the mean over the samples")
        return value.reshape(()), weight

    def _check(self, batch: Any, count: int) -> None:
        """Refuse what is no fixed function, or no mean over samples: two unequal parts must make up the whole."""
        (whole, weight), (again, _) = self._sum(batch, count), self._sum(batch, count)
        close = torch.finfo(whole.dtype).eps ** 0.5
        if not torch.allclose(whole, again, rtol=close, atol=0, equal_nan=True):
            raise UserError(
                "model: two evaluations of one batch differ; call model.eval() to turn dropout off, and let forward "
                "neither draw random numbers nor change its inputs or what it keeps from call to call"
            )
        self._checked = True
        norms = [m for m in self._model.modules() if isinstance(m, _BatchNorm) and m.training]
        if norms:
            warnings.warn(_BATCH_NORM, stacklevel=4)
        if count < 3 or self._reduction == "none" or (norms and not is_pair(batch)):
            return
        parts = self._parts(batch, count, [count // 3, count - count // 3])
        if parts is None:
            return
        sums, weights = torch.stack([part.detach() for part, _ in parts]).sum(), sum(float(w) for _, w in parts)
        mean, total = whole.detach() / float(weight), sums / weights
        # The parts of a pair are of the same outputs; other kernels may compute those of fewer samples.
        rounding = 1e3 * torch.finfo(whole.dtype).eps if is_pair(batch) else 10 * close
        if not torch.allclose(mean, total, rtol=rounding, atol=0, equal_nan=True):
            raise UserError(_NO_MEAN)

    def _parts(self, batch: Any, count: int, split: list[int]) -> list[tuple[Tensor, Any]] | None:
        """Return the losses of two parts of a batch; None where it cannot be cut."""
        if not is_pair(batch):
            first, rest = cut(batch, 0, split[0]), cut(batch, split[0], count)
            return [self._sum(part, n) for part, n in zip((first, rest), split, strict=True)]
        outputs, targets = self._model(batch[0]), batch[1]
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and len(outputs) == len(targets) == count):
            return None
        parts = zip(outputs.split(split), targets.split(split), split, strict=True)
        return [self._total(self._loss(out, y), n) for out, y, n in parts]


def _ignores(loss: Any, targets: Any) -> bool:
    """Return whether a module of torch leaves out some of these targets, and divides by the number of the others."""
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or not isinstance(targets, Tensor):
        return False
    return not targets.is_floating_point() and bool((targets == loss.ignore_index).any())


def _content(batch: Any, like: Tensor) -> Tensor:
    """Return (sum, sum of absolute values) of the floating-point numbers of a batch, in the dtype of `like`."""
    found = torch.zeros_like(like)
    for tensor in tensors(batch):
        if tensor.is_floating_point():
            numbers = tensor.detach().to(like.dtype)
            found += torch.stack([numbers.sum(), numbers.abs().sum()])
    return found


def _check_loader(loader: Any, max_samples: int | None) -> None:
    if not isinstance(loader, Iterable):
        raise SettingError(
            "loader", type(loader).__name__, "it gives no batches", "give a DataLoader or a list of them"
        )
    if max_samples is not None and (
        isinstance(max_samples, bool) or int(max_samples) != max_samples or max_samples < 1
    ):
        raise SettingError("max_samples", max_samples, "must be a whole number of at least 1")
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if isinstance(sampler, WeightedRandomSampler):
        raise SettingError("loader", "WeightedRandomSampler", "every call would see other samples", "use shuffle=False")
    if isinstance(sampler, RandomSampler):
        rows = len(sampler)
        some = max_samples is not None and max_samples < rows
        if some or sampler.replacement or (getattr(loader, "drop_last", False) and size and rows % size):
            raise SettingError("loader", "shuffle=True", "every call would see other samples", "use shuffle=False")
    if isinstance(sampler, DistributedSampler) and not sampler.drop_last:
        rows = len(cast(Any, sampler.dataset))
        if rows % sampler.num_replicas:
            raise SettingError(
                "loader",
                "DistributedSampler",
                "it repeats rows to make ranks equal",
                "give each rank torch.utils.data.Subset(data, range(rank, len(data), ranks))",
            )
