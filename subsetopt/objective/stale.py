"""Whether a model computes with what earlier calls left in its plain attributes, made of other parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel


def require_renewed(flat: FlatModel, w: Tensor, x: Inputs) -> None:
    """Raise `ModelError` where what an earlier call left in an attribute serves at other parameters.

    The attributes are put back to what they were before the first call, and the outputs at another point compared with
    those after calls at w. Two forward passes, and none where no attribute has changed.
    """
    if not (kept := flat.kept.changed()):
        return
    signs = torch.ones_like(w)
    signs[::2] = -1
    other = w + 0.1 * signs * (1 + w.abs())
    with torch.no_grad():
        later = flat.outputs(flat.views(other), x, "deterministic")
        flat.kept.put_back()
        afresh = flat.outputs(flat.views(other), x, "deterministic")
        flat.kept.put_back()
    if not close(later, afresh):
        raise ModelError(
            f"model: its outputs at other parameters are made of what an earlier call left in {', '.join(kept[:3])}; "
            f"compute in each forward pass what depends on parameters"
        )


def require_own(flat: FlatModel, w: Tensor, x: Inputs, outputs: Tensor) -> None:
    """Raise `ModelError` where outputs depend on what the model had computed from its parameters before it came here.

    Such an attribute has a graph in the model as it was given, and the forward pass has not renewed it.
    """
    changed = flat.kept.changed() if flat.derived else []
    for name in (name for name in flat.derived if name not in changed):
        before = [(tensor, tensor.clone()) for tensor in flat.kept.tensors(name)]
        with torch.no_grad():
            for tensor, value in before:
                tensor.add_(0.1 * (1 + value.abs()))
            moved = flat.outputs(flat.views(w), x, "deterministic")
            for tensor, value in before:
                tensor.copy_(value)
        if not close(moved, outputs.detach()):
            raise ModelError(
                f"model: its outputs are made of {name}, which an earlier call computed from its parameters; compute "
                "it in each forward pass"
            )


def close(first: Tensor, second: Tensor) -> bool:
    """Return whether two outputs of the same samples differ by rounding only."""
    # Sums in varying order differ by rounding on an accelerator; random numbers of the model's own by far more.
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    scale = float(first.detach().abs().max())
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
