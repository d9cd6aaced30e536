"""Whether a user's loss is one of samples: the same for each of them, whatever other samples stand beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subsetopt.errors import ModelError
from subsetopt.seeding import make_generator

CHECKED_SAMPLES = 48
SPLITS = 3
_ROUNDING = 128.0  # rounding errors of sums over the samples checked, in units of eps
_SINGLE = 1e-6  # a loss may compute in single precision inside, whatever goes in and comes out

Call = Callable[[Tensor, Tensor], Tensor]
PER_SAMPLE = "return the losses of the samples, shape (n,), as reduction='none' gives"


def require_loss_of_samples(call: Call, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
    """Raise `ModelError` unless `call(outputs, targets)` is n losses, or their mean, each of its own sample alone.

    Several random samples are cut into unequal parts: class weights under reduction="mean", an ignored label, a root of
    a mean, a contrast within the batch all give another mean of the parts than of the whole. Targets are taken from all
    over the data, rare ones among them, since those of the first rows may be alike; the outputs are those of the model.
    """
    with torch.no_grad():
        whole = _called(call, outputs, targets)
        _require_shape(whole, outputs)
        _require_same(whole, _called(call, outputs, targets))
        if len(outputs) < 2 or not bool(torch.isfinite(whole).all()):
            return
        generator = make_generator(0, "loss guard")
        _compare(call, outputs, targets, whole, generator)
        for _ in range(SPLITS):
            z, y = _spread(outputs, targets, all_targets, generator)
            try:
                value = _called(call, z, y)
            except ModelError:
                return  # outputs of one sample do not go with targets of another: the true pairs have been checked
            if bool(torch.isfinite(value).all()):
                _compare(call, z, y, value, generator)


def _called(call: Call, outputs: Tensor, targets: Tensor) -> Tensor:
    own_outputs, own_targets = outputs.detach().clone(), targets.clone()
    losses = call(own_outputs, own_targets)
    for what, own in (("outputs", own_outputs), ("targets", own_targets)):
        if own._version:
            raise ModelError(f"loss: it changes the {what} in place; let it work on a copy")
    return losses


def _spread(outputs: Tensor, targets: Tensor, all_targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return some outputs, repeated, beside random targets of all the data and the rarest kinds of them."""
    count = min(CHECKED_SAMPLES, max(len(outputs), len(all_targets)))
    rows = torch.randint(0, len(all_targets), (count,), generator=generator)
    rare = _unlike(all_targets)[:count]
    rows[: len(rare)] = rare
    rows = rows[torch.randperm(count, generator=generator)]
    places = torch.randint(0, len(outputs), (count,), generator=generator)
    return outputs[places.to(outputs.device)], all_targets[rows.to(all_targets.device)].to(targets.device)


def _unlike(targets: Tensor) -> Tensor:
    """Return rows of the rarest labels; of other targets, those with most and fewest lowest, highest or NaN entries."""
    if targets.ndim == 1 and not targets.is_floating_point():
        _, index, counts = torch.unique(targets, return_inverse=True, return_counts=True)
        first = torch.full_like(counts, len(targets)).scatter_reduce(
            0, index, torch.arange(len(index), device=index.device), "amin"
        )
        return first[counts.argsort()][: CHECKED_SAMPLES // 2].cpu()
    if targets.is_complex():
        return torch.zeros(0, dtype=torch.int64, device="cpu")
    flat = targets.reshape(len(targets), -1)
    kinds = [flat == flat.min(), flat == flat.max()] + ([flat.isnan()] if flat.is_floating_point() else [])
    counted = [kind.sum(1) for kind in kinds]
    return torch.stack([row for count in counted for row in (count.argmin(), count.argmax())]).cpu()


def _compare(call: Call, outputs: Tensor, targets: Tensor, whole: Tensor, generator: torch.Generator) -> None:
    """Compare the loss of all rows with those of two unequal parts of them, in random order."""
    n = len(outputs)
    order = torch.randperm(n, generator=generator).to(outputs.device)
    cut = int(torch.randint(1, max(2, n // 2), (), generator=generator))
    parts, sizes = [], (cut, n - cut)
    for rows in (order[:cut], order[cut:]):
        part = _called(call, outputs[rows], targets[rows.to(targets.device)])
        _require_shape(part, outputs[rows], like=whole, n=n)
        parts.append(part.double())
    eps = max(torch.finfo(outputs.dtype).eps, torch.finfo(whole.dtype).eps)
    tolerance = max(_ROUNDING * eps, _SINGLE)
    if whole.ndim == 0:
        found = sum(part * (size / n) for part, size in zip(parts, sizes, strict=True))
        assert isinstance(found, Tensor), "there are two parts"
        scale = sum(float(part.abs()) * size / n for part, size in zip(parts, sizes, strict=True))
        whole = whole.double()
        if not bool((found - whole).abs() <= tolerance * max(scale, float(whole.abs()))):
            _refuse_mean(whole, parts, found, sizes)
        return
    found, expected = torch.cat(parts), whole.double()[order]
    if not torch.allclose(
        found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()), equal_nan=True
    ):
        raise ModelError(
            "loss: the loss of a sample depends on the samples beside it (it changes when a batch is split), so that "
            "the chunks would decide the result; let it depend on its own outputs and target alone"
        )


def _refuse_mean(whole: Tensor, parts: list[Tensor], found: Tensor, sizes: tuple[int, int]) -> None:
    values = (
        f"{float(whole):.6g} for {sum(sizes)} samples, {float(parts[0]):.6g} and {float(parts[1]):.6g} for parts of "
    )
    values += f"{sizes[0]} and {sizes[1]}"
    if torch.isclose(whole, parts[0] + parts[1], rtol=1e-3, atol=0.0):
        raise ModelError(f"loss: it returns a sum ({values}); use reduction='mean', or {PER_SAMPLE}")
    raise ModelError(
        f"loss: it is not the mean over samples ({values}): class weights, ignore_index, masks and roots with "
        f"reduction='mean' make the chunks decide the result; {PER_SAMPLE}"
    )


def _require_shape(losses: Tensor, outputs: Tensor, like: Tensor | None = None, n: int = 0) -> None:
    rows = len(outputs)
    if losses.shape not in ((rows,), ()) or (like is not None and losses.ndim != like.ndim):
        shape = tuple(losses.shape)
        hint = "; average over the outputs, as in loss.flatten(1).mean(1)" if losses.ndim > 1 else ""
        raise ModelError(
            f"loss: it returns shape {shape} for {rows} samples; return ({rows},) losses or their mean{hint}"
        )


def _require_same(first: Tensor, second: Tensor) -> None:
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    scale = float(torch.nan_to_num(first).abs().max())
    if not torch.allclose(first, second, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        raise ModelError(
            f"loss: two calls with the same outputs and targets give {float(first.mean()):.6g} and "
            f"{float(second.mean()):.6g}; it draws random numbers or keeps a state: make it a function of its arguments"
        )
