"""What runs, and is seldom meant: a model that ends in what its loss applies anyway, settings without effect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt.errors import setting, was_typed
from subsetopt.inputs import Inputs
from subsetopt.objective import FlatModel
from subsetopt.seeding import seeded_globals
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.declaration import declaration
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


def phase_notes(config: RunConfig) -> list[str]:
    """Return a sentence where phases are listed and settings were changed that serve to plan them.

    For what a user has written: the cells of a study have the settings that their phases were planned from.
    """
    if not config.phase:
        return []
    planning = ("Solve", "Strategy", "Warm-up", "Hand-off")
    without = [name for name in _changed(config) if _heading(name) in planning and name not in ("l2", "max_epochs")]
    if not without:
        return []
    named = ", ".join(setting(name) for name in without[:3]) + (" and others" if len(without) > 3 else "")
    return [f"{named}: no effect beside [[phase]], which lists what the run does; set it there"]


def _changed(config: RunConfig) -> list[str]:
    return [
        name
        for name, field in RunConfig.model_fields.items()
        if getattr(config, name) != field.get_default(call_default_factory=True, validated_data={})
        or was_typed(name, getattr(config, name))
    ]


def _heading(name: str) -> str:
    return declaration(RunConfig.model_fields[name]).heading


def unused_notes(config: RunConfig) -> list[str]:
    """Return a sentence for each setting that was changed, and belongs to what the run does not do."""
    if config.phase:
        return []
    fields = RunConfig.model_fields
    changed = [
        name
        for name, field in fields.items()
        if getattr(config, name) != field.get_default(call_default_factory=True, validated_data={})
    ]
    unused: list[tuple[str, str]] = []
    for part in ("warmup", "handoff"):
        if getattr(config, part) == "none":
            unused += [(name, setting(part, "none")) for name in changed if name.startswith(f"{part}_")]
    if config.warmup == "none" and (config.solver == "none" or config.solver in METHODS):
        why = f"{setting('solver', config.solver)}, which solves nothing on one subset"
        unused += [(name, why) for name in changed if name in ("subset_frac", "subset_size", "max_iterations")]
    if config.subset_draw == "residual" and ("stratify" in changed or was_typed("stratify", config.stratify)):
        unused.append(("stratify", f"{setting('subset_draw', 'residual')}, which draws by residuals, not by class"))
    if config.handoff in ("adam", "adamw"):
        names = ("handoff_momentum", "handoff_nesterov")
        unused += [(name, setting("handoff", config.handoff)) for name in changed if name in names]
    return [f"{setting(name, getattr(config, name))} has no effect with {why}" for name, why in unused]


def _are_probabilities(flat: FlatModel, inputs: Inputs) -> bool:
    with seeded_globals(0, "check"), torch.no_grad():
        outputs = flat.call(flat.views(flat.initial()), inputs.to(flat.device), "eval")
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < _ROUNDING).all())
