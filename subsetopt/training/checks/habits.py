"""What runs, and is seldom meant: a model that ends in what its loss applies anyway, settings without effect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt.errors import setting
from subsetopt.inputs import Inputs
from subsetopt.objective import FlatModel
from subsetopt.seeding import seeded_globals
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.run import RunConfig

_ROUNDING = 1e-3  # of a sum of probabilities, in the narrowest dtype that is trained in


def probability_note(model: nn.Module, flat: FlatModel, inputs: Inputs, loss: object) -> list[str]:
    """Return a sentence where the model ends in a softmax or a sigmoid that the loss applies anyway.

    `flat` is `model` with its parameters in one vector, `inputs` (n, ...) a few rows as it takes them.
    """
    if isinstance(loss, nn.BCEWithLogitsLoss | nn.MultiLabelSoftMarginLoss):
        last = [module for module in model.modules() if not list(module.children())][-1:]
        found = "a sigmoid" if last and isinstance(last[0], nn.Sigmoid) else None
    elif loss == "cross_entropy" or isinstance(loss, nn.CrossEntropyLoss):
        found = "a softmax" if _are_probabilities(flat, inputs) else None
    else:
        found = None
    if found is None:
        return []
    return [f"model: its outputs are probabilities, and the loss takes logits: leave {found} at its end out"]


def unused_notes(config: RunConfig) -> list[str]:
    """Return a sentence for each setting of a solve on a subset where none is made."""
    if config.phase or config.warmup != "none" or not (config.solver == "none" or config.solver in METHODS):
        return []
    plain = {name: RunConfig.model_fields[name].default for name in ("subset_frac", "subset_size", "max_iterations")}
    reason = f"{setting('solver', config.solver)} solves nothing on one subset"
    changed = [(name, getattr(config, name)) for name in plain if getattr(config, name) != plain[name]]
    return [f"{setting(name, value)} has no effect: {reason}" for name, value in changed]


def _are_probabilities(flat: FlatModel, inputs: Inputs) -> bool:
    with seeded_globals(0, "check"), torch.no_grad():
        outputs = flat.call(flat.views(flat.initial()), inputs.to(flat.device), "eval")
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < _ROUNDING).all())
