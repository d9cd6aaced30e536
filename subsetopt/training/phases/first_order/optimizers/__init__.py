"""First-order optimizers, one per file with its card.

Imports no torch: the command line offers the names in its help. Torch is imported where an optimizer is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from subsetopt.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.objective import FlatModel
    from subsetopt.training.phases.first_order.step_price import StepWork
    from subsetopt.training.settings.phase import PhaseConfig


class FirstOrderMethod:
    """An optimizer of the one flat parameter: its default rate and weight decay, and how it is made.

    `rate` is the default learning rate, for losses of order 1, which cross-entropy and standardised targets have: it
    follows no scale of the loss, since it is bounded by curvature. `decoupled_decay` is the default of a weight decay
    that is applied apart from the gradient; None says that the decay is the L2 penalty itself, by default the run's.
    Comparisons tune the learning rate. `step_work` says what is charged for a step beside its gradient: nothing for
    updates "entrywise", the count of the first step where all multiply the same matrices ("fixed"), else that of each.
    """

    rate: ClassVar[float]
    decoupled_decay: ClassVar[float | None] = None
    step_work: ClassVar[StepWork] = "varying"

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of `w` (P,), whose `param_groups[0]["lr"]` may change between steps."""
        raise NotImplementedError

    @classmethod
    def check(cls, flat: FlatModel, setting: str) -> None:
        """Raise `SettingError` for the setting `setting` where the optimizer cannot train this model."""


OPTIMIZERS: Registry[type[FirstOrderMethod]] = Registry("optimizer", __name__)
