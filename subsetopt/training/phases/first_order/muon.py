"""Muon on one flat parameter vector: orthogonalised momentum for the matrices inside a network, AdamW for the rest.

The update of a matrix is its momentum with all singular values set to about one, by five Newton-Schulz steps (Jordan
et al. 2024, kellerjordan.github.io/posts/muon). Convolutions are matrices (out, in * kh * kw). As its authors advise,
biases, gains and the last layer go to AdamW, and so does the first layer where another is left. Rates are scaled by
0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv 2502.16982), so that one learning rate and one weight decay, as for
AdamW, serve all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.objective import FlatModel

SCALING = "match_rms_adamw"


def check_muon(flat: FlatModel, name: str = "method") -> None:
    """Raise `SettingError` for the setting `name` where torch has no Muon, or the model no matrix for it."""
    if not hasattr(torch.optim, "Muon"):
        raise SettingError(name, "muon", f"torch {torch.__version__} has no Muon", "install torch 2.9, or use adamw")
    if not matrices(flat):
        raise SettingError(name, "muon", "the model has no matrix before its last layer", "use adamw")


def matrices(flat: FlatModel) -> list[int]:
    """Return which parameters Muon takes: matrices but the last, and without the first where others are left."""
    found = [index for index, shape in enumerate(flat.shapes) if len(shape) >= 2]
    inner = found[:-1]
    return inner[1:] if len(inner) > 1 else inner


class Muon(torch.optim.Optimizer):
    """Optimizes the flat vector `w` (P,) in place through views of it; the state is the two optimizers' own.

    `lr` and `weight_decay` (decoupled) are those of AdamW; `param_groups[0]["lr"]` may change between steps.
    """

    def __init__(self, flat: FlatModel, w: Tensor, lr: float, weight_decay: float) -> None:
        super().__init__([w], {"lr": lr})
        self._w, self._flat = w, flat
        inner = set(matrices(flat))
        views = [view.requires_grad_() for view in flat.views(w.detach())]
        self._pieces = [
            (index, view.flatten(1).detach().requires_grad_() if index in inner else view)
            for index, view in enumerate(views)
        ]
        own = [piece for index, piece in self._pieces if index in inner]
        rest = [piece for index, piece in self._pieces if index not in inner]
        self._parts: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(own, lr, weight_decay=weight_decay, adjust_lr_fn=SCALING),
        }
        if rest:
            self._parts["adamw"] = torch.optim.AdamW(rest, lr, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch's may return the closure's loss
        """Take one step along the gradient in `w.grad`."""
        assert self._w.grad is not None, "a gradient is computed before every step"
        gradients = self._flat.views(self._w.grad)
        for index, piece in self._pieces:
            piece.grad = gradients[index].view(piece.shape)
        for part in self._parts.values():
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does for the one parameter, its entries nested by optimizer and parameter."""
        state = {
            name: {str(index): dict(entry) for index, entry in part.state_dict()["state"].items()}
            for name, part in self._parts.items()
        }
        return {**super().state_dict(), "state": {0: state} if self._begun else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, part in self._parts.items():
            entries = state_dict["state"].get(0, {}).get(name, {})
            part.load_state_dict(
                {
                    **part.state_dict(),
                    "state": {int(index): dict(entry) for index, entry in entries.items()},
                }
            )

    @property
    def _begun(self) -> bool:
        return any(part.state for part in self._parts.values())
