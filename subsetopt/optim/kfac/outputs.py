"""The Hessian of a loss in the model's outputs, told by the gradient that the loss sends back, and noise of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from subsetopt.devices import moved

OutputLoss = Literal["cross_entropy", "binary_cross_entropy", "mse"]
CLOSE = 1e-3  # relative; what rounding in float32 leaves of an identity over one sample's outputs


@dataclass(frozen=True)
class OutputRows:
    """Outputs as rows (n, M) of one prediction each, and the gradient of the loss in them, of whatever scale.

    `moved_axis` says that classes stood on axis 1 of outputs of more than two axes, as in F.cross_entropy on images.
    """

    values: Tensor
    gradient: Tensor
    shape: torch.Size
    moved_axis: bool

    @classmethod
    def of(cls, outputs: Tensor, gradient: Tensor, classes_first: bool) -> OutputRows:
        """Return the rows of outputs `(n, ...)`."""
        values, gradient = outputs.detach(), gradient.detach()
        if values.dim() == 1:
            values, gradient = values[:, None], gradient[:, None]
        if classes_first and values.dim() > 2:
            values, gradient = values.movedim(1, -1), gradient.movedim(1, -1)
        width = values.shape[-1]
        moved_axis = classes_first and outputs.dim() > 2
        return cls(values.reshape(-1, width), gradient.reshape(-1, width), values.shape, moved_axis)

    def shaped(self, rows: Tensor, outputs: Tensor) -> Tensor:
        """Return rows (n, M) in the shape of `outputs`."""
        whole = rows.reshape(self.shape)
        return (whole.movedim(-1, 1) if self.moved_axis else whole).reshape(outputs.shape)


def told_loss(outputs: Tensor, gradient: Tensor) -> tuple[OutputLoss, bool]:
    """Return the loss whose gradient in `outputs` looks like `gradient`, and whether its classes stand on axis 1.

    Of cross-entropy the gradient of each row sums to zero (of log-probabilities and probabilities the rows themselves
    show what they are); of binary cross-entropy with labels 0 and 1 it is a common multiple of sigmoid(z) - y. Anything
    else is taken for a squared loss, whose Hessian is the same for all outputs.
    """
    for classes_first in (False, True):
        rows = OutputRows.of(outputs, gradient, classes_first)
        if rows.values.shape[1] > 1 and (_normalised(rows.values) or _sums_to_zero(rows.gradient)):
            return "cross_entropy", classes_first
    return ("binary_cross_entropy" if _is_binary(outputs.detach(), gradient) else "mse"), False


def curvature_noise(
    loss: OutputLoss, rows: OutputRows, generator: torch.Generator, total: int, first: int
) -> tuple[Tensor, int]:
    """Return random u (n, M) with E[u u'] the Hessian of each row's loss in its outputs, and the rows that count.

    Rows are `first` and following of `total` on all ranks. Rows without gradient (padding under `ignore_index`) do not
    count. Where outputs are log-probabilities or probabilities, u is such that the softmax before them turns it into
    the noise of logits, S e with S = diag(sqrt p) - p sqrt(p)' (see `objective/output_noise.py`).
    """
    z = rows.values
    bits = torch.randint(0, 2, (total, z.shape[1]), generator=generator)[first : first + len(z)]
    signs = moved(2 * bits - 1, z.device, z.dtype)
    if loss == "mse":
        return signs * (2.0 / z.shape[1]) ** 0.5, len(z)
    if loss == "binary_cross_entropy":
        p = z.sigmoid()
        return signs * (p * (1 - p) / z.shape[1]).sqrt(), len(z)
    live = (rows.gradient != 0).any(1)
    kind = _normalised(z)
    p = z.exp() if kind == "log" else z if kind == "plain" else z.softmax(1)
    spread = p.sqrt() * signs
    if kind == "plain":
        spread = signs / p.clamp_min(torch.finfo(p.dtype).tiny).sqrt()
    elif kind is None:
        spread = spread - p * spread.sum(1, keepdim=True)
    return spread * live[:, None], int(live.sum())


def residual_scale(loss: OutputLoss, rows: OutputRows) -> float:
    """Return what a change of the outputs is compared with: 1 nat, or the mean squared residual of a squared loss.

    A gradient 2 (z - y) / (n M) tells the residuals z - y.
    """
    if loss != "mse":
        return 1.0
    return float((rows.gradient * rows.gradient.numel() / 2).square().mean())


def _normalised(rows: Tensor) -> str | None:
    """Return "log" or "plain" for rows that are log-probabilities or probabilities, else None."""
    if bool((rows <= CLOSE).all()) and bool(((rows.exp().sum(1) - 1).abs() < CLOSE).all()):
        return "log"
    if bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < CLOSE).all()):
        return "plain"
    return None


def _sums_to_zero(gradient: Tensor) -> bool:
    size = gradient.abs().sum(1)
    live = size > 0
    return bool(live.any()) and bool((gradient.sum(1).abs()[live] <= CLOSE * size[live]).all())


def _is_binary(z: Tensor, gradient: Tensor) -> bool:
    live = gradient != 0
    expected = torch.where(gradient < 0, 1 - z.sigmoid(), z.sigmoid())[live]
    if expected.numel() < 2:
        return False
    scale = gradient.abs()[live] / expected
    return bool(((scale / scale.median() - 1).abs() < 10 * CLOSE).all())
