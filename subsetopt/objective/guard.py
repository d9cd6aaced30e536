"""The checks an objective makes once, on a few samples, before any work is spent on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss
from subsetopt.objective.memory import UNMEASURED, with_saved_bytes
from subsetopt.objective.model_loss import ModelLoss, is_mean, require_mean_of_samples
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.stale import close, require_own, require_renewed
from subsetopt.objective.weighting import values_of, without_weights
from subsetopt.objective.written import Watch
from subsetopt.seeding import borrowed_generators

PROBE_SAMPLES = 16
UNCHECKED = "or pass check_deterministic=False"


@dataclass(frozen=True)
class Probe:
    """What the first evaluation told: outputs per sample M, and bytes saved per sample in a forward pass."""

    n_outputs: int
    bytes_per_sample: float


def probe(flat: FlatModel, loss: Loss, x: Inputs, y: Tensor, all_targets: Tensor, check_deterministic: bool) -> Probe:
    """Evaluate the model on a few samples and return what that tells.

    Raises `ModelError` when the model fails, writes its parameters, has outputs of a wrong shape or NaN, gives another
    result the second time, or for a part of the samples; `DataError` when the targets do not fit. The global random
    generators and the model's buffers are left as they were.
    """
    w, buffers = flat.initial(), flat.buffers()
    with left_as_it_was(flat):
        leaves = flat.leaves(w)
        watch = Watch(flat, w, leaves)
        outputs, saved = with_saved_bytes(lambda: _outputs(flat, leaves, x), w, UNMEASURED * x.nbytes)
        watch.require_unwritten()
        _require_finite(outputs)
        loss.check(outputs, y, all_targets)
        # Without the hooks on saved tensors, which hide that a saved tensor has been overwritten.
        leaves = flat.leaves(w)
        second = _outputs(flat, leaves, x)
        gradients = _require_gradient(flat, leaves, x, loss.total(second, y, second.dtype))
        if torch.equal(outputs, second):  # nothing can be told of outputs that differ by themselves
            _require_reached(flat, leaves, gradients, x, outputs)
        if check_deterministic:
            _require_repeatable(flat, w, x, (outputs, second), buffers)
            require_own(flat, w, x, outputs)
            require_renewed(flat, w, x)
            if not flat.batch_dependent:
                _require_independent_samples(flat, w, x, outputs, loss, y)
    return Probe(outputs[0].numel(), saved / len(x))


def _outputs(flat: FlatModel, parameters: list[Tensor], x: Inputs) -> Tensor:
    return _checked(outputs_of(lambda x: flat.call(parameters, x, "deterministic"), x), len(x))


def _checked(outputs: Any, samples: int) -> Tensor:
    dense = isinstance(outputs, Tensor) and outputs.layout == torch.strided
    if not isinstance(outputs, Tensor) or not dense or not outputs.is_floating_point() or outputs.ndim == 0:
        kind = type(outputs).__name__
        if isinstance(outputs, Tensor):
            kind = f"a {outputs.dtype if dense else outputs.layout} tensor of shape {tuple(outputs.shape)}"
        own = "" if isinstance(outputs, Tensor) else ", or give loss=loss(model, batch), which may take it apart"
        raise ModelError(f"model: it returns {kind}; return one floating-point tensor of shape (n, M){own}")
    if len(outputs) != samples or outputs.numel() == 0:
        raise ModelError(
            f"model: {samples} samples give outputs of shape {tuple(outputs.shape)}; return shape (n, M), one row per "
            "sample"
        )
    if not outputs.requires_grad and torch.is_grad_enabled():
        raise ModelError(
            "model: outputs do not depend on its parameters; do not detach them, nor use no_grad or checkpoints with "
            "use_reentrant=True inside it"
        )
    return outputs


def _require_finite(outputs: Tensor) -> None:
    bad = ~torch.isfinite(outputs.detach()).reshape(len(outputs), -1).all(1)
    if bool(bad.any()):
        row, value = int(bad.nonzero()[0]), outputs.detach()[bad][0].flatten()
        raise ModelError(
            f"model: its outputs are {float(value[~value.isfinite()][0])} for {int(bad.sum())} of the first {len(bad)} "
            f"samples, first for row {row}; look for log, sqrt or a division that their inputs do not allow"
        )


def _require_gradient(flat: FlatModel, leaves: list[Tensor], x: Inputs, total: Tensor) -> Sequence[Tensor | None]:
    if not bool(torch.isfinite(total)):
        raise ModelError(
            f"loss: it is {float(total.detach())} at the starting point; keep what it takes a logarithm, root or "
            "quotient of inside its domain, or repair the targets"
        )
    if not total.requires_grad:
        raise ModelError("loss: it does not depend on the outputs by torch's operations; do not detach them in it")
    with flat.at(leaves, "deterministic"):  # for modules that recompute their forward pass in the backward pass
        gradients: Sequence[Tensor | None] = outputs_of(
            lambda _: torch.autograd.grad(total, leaves, allow_unused=True), x, "backward"
        )
    if all(gradient is None for gradient in gradients):
        raise ModelError(
            "loss: its value does not depend on the model's parameters; let it call the model that it is given, "
            "which is a copy, and not one from outside"
        )
    for name, gradient in zip(flat.names, gradients, strict=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise ModelError(
                f"model: its loss is {float(total.detach()) / len(x):.6g} at the starting point, but its gradient in "
                f"{name} is NaN or infinite; look for a root, norm or quotient at 0, and for torch.where around one"
            )
    return gradients


def _require_reached(
    flat: FlatModel, leaves: list[Tensor], gradients: Sequence[Tensor | None], x: Inputs, outputs: Tensor
) -> None:
    """Raise `ModelError` where a parameter without a gradient moves the outputs: L2 alone would train it.

    One that does not is not used for these inputs.
    """
    for place, gradient in enumerate(gradients):
        if gradient is not None:
            continue
        moved = [leaf.detach() for leaf in leaves]
        moved[place] = moved[place] + 0.1 * (1 + moved[place].abs())
        with torch.no_grad():
            other = flat.outputs(moved, x, "deterministic")
        if not torch.equal(other, outputs.detach()):
            raise ModelError(
                f"model: its outputs depend on {flat.names[place]}, but no gradient comes to it; take it out of "
                "no_grad or detach, checkpoint with use_reentrant=False, or freeze it with requires_grad_(False)"
            )


def _require_repeatable(
    flat: FlatModel, w: Tensor, x: Inputs, outputs: tuple[Tensor, Tensor], buffers: dict[str, Tensor]
) -> None:
    first, second = outputs
    if close(first, second):
        return
    difference = float((first - second).detach().abs().max())
    said = f"model: two evaluations at one point differ (by {difference:.3g} at most in outputs of the same samples)"
    if kept := flat.kept.changed():
        afresh = []
        for _ in range(2):
            flat.kept.put_back()
            flat.load_buffers(buffers)
            afresh.append(_outputs(flat, flat.leaves(w), x))
        if close(*afresh):
            raise ModelError(
                f"{said}; it keeps state from one call to the next in {', '.join(kept[:3])}: begin each forward pass "
                f"without it, {UNCHECKED}"
            )
    state = torch.get_rng_state()
    repeated = []
    for _ in range(2):
        torch.set_rng_state(state)
        repeated.append(_outputs(flat, flat.leaves(w), x))
    if close(*repeated):
        raise ModelError(
            f"{said}; it draws random numbers in eval mode: use nn.Dropout or training=self.training, {UNCHECKED}"
        )
    changed = sorted(name for name, value in flat.buffers().items() if not torch.equal(value, buffers[name]))
    if changed:
        raise ModelError(
            f"{said}; its forward pass changes {', '.join(changed[:3])}: do so only where self.training, {UNCHECKED}"
        )
    raise ModelError(f"{said}; they depend on the time, or on what earlier calls left behind: remove that, {UNCHECKED}")


def _require_independent_samples(
    flat: FlatModel, w: Tensor, x: Inputs, whole: Tensor, loss: Loss, targets: Tensor
) -> None:
    """Evaluate unequal parts: what a model makes of a sample must not depend on which others are in the chunk."""
    n = len(x)
    cut = n // 3
    if not cut:
        return
    try:
        both = [_outputs(flat, flat.leaves(w), part) for part in (x[:cut], x[cut:])]
    except ModelError:
        if cut > 1:
            raise
        return  # a single sample is no chunk for some models, and need not become one
    plainly, parts = without_weights(loss), torch.cat(both)
    if isinstance(plainly, ModelLoss) and is_mean(whole):
        require_mean_of_samples(whole, both, values_of(targets), plainly)
    elif not close(whole, parts):
        difference = float((whole - parts).detach().abs().max())
        raise ModelError(
            f"model: its outputs for a sample depend on the others beside it (by {difference:.3g} at most, when {n} "
            f"samples are cut into {cut} and {n - cut}); let each depend on its own inputs, use nn.BatchNorm, "
            f"{UNCHECKED}"
        )


@contextmanager
def left_as_it_was(flat: FlatModel) -> Iterator[None]:
    """Give random generators and the model's buffers their state back at the end."""
    before = flat.buffers()
    try:
        with borrowed_generators([flat.device] if flat.device.type == "cuda" else []):
            yield
    finally:
        now = flat.buffers()  # those that a forward pass has made or reshaped stay
        kept = {name: value for name, value in before.items() if name in now and now[name].shape == value.shape}
        flat.load_buffers({**now, **kept})
