"""One problem for all methods of a study: the same L2 penalty in the gradient, unless each tunes its own.

A decoupled weight decay (AdamW, Muon) minimises another function than the loss with its L2 penalty, which solvers and
the other optimizers minimise; compared without more ado, the strength that nobody chose would decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subsetopt.compare.config import ValidatedStudy
from subsetopt.compare.methods import Method
from subsetopt.errors import SettingError, setting
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig


def with_coupled_l2(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Return `phase` with the run's L2 in its gradient and no decoupled decay, whatever its optimizer's default."""
    decoupled = phase["method"] in OPTIMIZERS and OPTIMIZERS.get(phase["method"]).decoupled_decay is not None
    return {**phase, "coupled_l2": True} if decoupled else dict(phase)


def check_common_l2(method: Method, base: RunConfig, study: ValidatedStudy) -> None:
    """Raise `SettingError` where `method` has a regularisation of its own that no search has chosen."""
    common = study.shared.get("l2", RunConfig.model_fields["l2"].default)
    remedy = f"leave it out, or let every method tune its own by {setting('tune', 'rate,l2')}"
    if base.one_strength != common:
        problem = f"of method {method.name!r} differs from the study's {common:g}: it would minimise another objective"
        raise SettingError("l2", base.l2, problem, remedy)
    for phase in base.phases():
        decay = phase.weight_decay
        if phase.first_order and decay is not None and decay != _no_decay(phase, common):
            name = f"{'warmup' if phase.role == 'warmup' else 'handoff'}_weight_decay"
            problem = f"gives method {method.name!r} another objective than the study's l2 = {common:g}"
            raise SettingError(name, decay, problem, remedy)


def check_own_decay(method: Method, base: RunConfig) -> None:
    """Raise `SettingError` where arguments of an optimizer hold a weight decay, which replaces the L2 penalty."""
    for phase in base.phases():
        if phase.first_order and OPTIMIZERS.get(phase.method).has_own_decay(phase.settings):
            decay = phase.settings["weight_decay"]
            problem = f"is the own weight decay of {phase.method}, and takes the L2 penalty from {method.name!r}"
            raise SettingError("weight_decay", decay, problem, f"leave it out, and set {setting('l2')} for all methods")


def changes_its_loss(base: RunConfig) -> bool:
    """Tell whether first-order steps of a method smooth labels or augment batches, which solvers do not."""
    return any(phase.first_order and (phase.label_smoothing or phase.augmentation != "none") for phase in base.phases())


def sentence(kind: str, l2: float, changed: Sequence[str] = ()) -> str:
    """Return what a report says of the objective: one L2 strength ("same"), or each method chose its own ("tuned").

    `changed` are the methods that train on another loss than the objective.
    """
    beside = f" Label smoothing or augmentation changes what these train on: {', '.join(changed)}." if changed else ""
    if kind == "tuned":
        return f"Every method tuned its regularisation by the same search as its rate (tune = rate,l2).{beside}"
    return (
        f"All methods minimise the same objective, L2 strength {l2:g} in the gradient and no decoupled weight decay; "
        "nobody tuned this strength (tune = rate,l2 would), so a test loss alone ranks no "
        f"method.{beside}"
    )


def _no_decay(phase: PhaseConfig, common: float) -> float:
    """Return the weight decay that leaves the study's objective as it is."""
    return common if OPTIMIZERS.get(phase.method).decoupled_decay is None else 0.0
