"""The checks an objective makes once, on a few samples, before any work is spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.errors import ModelError, UserError
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss
from subsetopt.objective.memory import SavedBytes
from subsetopt.seeding import borrowed_generators

PROBE_SAMPLES = 16


@dataclass(frozen=True)
class Probe:
    """What the first evaluation told: outputs per sample M, and bytes saved per sample in a forward pass."""

    n_outputs: int
    bytes_per_sample: float


def probe(flat: FlatModel, loss: Loss, x: Tensor, y: Tensor, all_targets: Tensor, check_deterministic: bool) -> Probe:
    """Evaluate the model on a few samples and return what that tells.

    Raises `ModelError` when the model fails, has outputs of the wrong shape, or gives another result the second time;
    `DataError` when the targets do not fit. The global random generators are left as they were.
    """
    w = flat.initial()
    with _random_state_restored(flat.device):
        with SavedBytes(exclude=w) as saved:
            outputs = _outputs(flat, flat.leaves(w), x)
        loss.check(outputs, y, all_targets)
        if check_deterministic:
            _require_equal(loss, outputs, _outputs(flat, flat.views(w), x), y)
    if not outputs.requires_grad:
        raise ModelError("model: outputs do not depend on its parameters; do not detach them or use no_grad inside it")
    return Probe(outputs[0].numel(), saved.total / len(x))


def _outputs(flat: FlatModel, parameters: list[Tensor], x: Tensor) -> Tensor:
    try:
        outputs = flat.call(parameters, x, "deterministic")
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelError(f"model: it fails on inputs of shape {tuple(x.shape)} {x.dtype}: {reason}") from error
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        raise ModelError(
            f"model: it returns {type(outputs).__name__}; return one floating-point tensor of shape (n, M)"
        )
    if len(outputs) != len(x):
        raise ModelError(f"model: {len(x)} samples give outputs of shape {tuple(outputs.shape)}; return shape (n, M)")
    return outputs


def _require_equal(loss: Loss, first: Tensor, second: Tensor, targets: Tensor) -> None:
    a, b = (loss.total(outputs.detach(), targets, outputs.dtype) for outputs in (first, second))
    # Sums in varying order differ by rounding on an accelerator; random numbers of the model's own by far more.
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    if not torch.allclose(first, second, rtol=tolerance, atol=tolerance * float(first.detach().abs().max())):
        raise ModelError(
            f"model: two evaluations at one point differ (losses {float(a):.6g} and {float(b):.6g}); it draws random "
            "numbers in eval mode: use nn.Dropout or training=self.training, or pass check_deterministic=False"
        )


@contextmanager
def _random_state_restored(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with borrowed_generators(devices):
        yield
