"""First-order optimizers, one per file with its card; any other of torch's kind by `package.module:Class`.

Imports no torch: the command line offers the names in its help. Torch is imported where an optimizer is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from subsetopt.registry import Entry, Registry
from subsetopt.training.phases.first_order.inline_arguments import is_import_path, name_of

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
    `schedule` is the default one, `of_phase` names settings of the phase that arguments in parentheses may give, too.
    Comparisons tune the learning rate. `step_work` says what is charged for a step beside its gradient: nothing for
    updates "entrywise", the count of the first step where all multiply the same matrices ("fixed"), else that of each.
    """

    rate: ClassVar[float]
    decoupled_decay: ClassVar[float | None] = None
    schedule: ClassVar[str] = "cosine"
    of_phase: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    step_work: ClassVar[StepWork] = "varying"

    @classmethod
    def default_rate(cls, setting: str = "optimizer") -> float:
        """Return the peak learning rate where none is set; may raise `SettingError` for the setting `setting`."""
        return cls.rate

    @classmethod
    def arguments(cls, config: PhaseConfig, setting: str = "optimizer") -> dict[str, Any]:
        """Return the keywords for the optimizer that the settings of a phase mean; raises `SettingError` for others.

        `setting` is what the user called the setting that names the optimizer.
        """
        from subsetopt.training.phases.first_order.arguments import checked_arguments

        return checked_arguments(config.method, cls.factory(), config.settings, cls.of_phase)

    @classmethod
    def factory(cls) -> Callable[..., Any] | None:
        """Return the class whose keywords the settings of a phase are; None for an optimizer without settings."""
        return None

    @classmethod
    def has_own_decay(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether `settings` hold a weight decay of the optimizer's own, in place of the L2 penalty."""
        return False

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of `w` (P,), whose `param_groups[0]["lr"]` may change between steps."""
        raise NotImplementedError

    @classmethod
    def check(cls, flat: FlatModel, setting: str) -> None:
        """Raise `SettingError` for the setting `setting` where the optimizer cannot train this model."""

    @classmethod
    def rehearse(cls, config: PhaseConfig, flat: FlatModel, lr: float, setting: str) -> None:
        """Raise `SettingError` where steps would fail with the arguments that were given.

        A restored state, too, is of use for optimizers that are not tested here.
        """
        if not config.settings:
            return
        from subsetopt.errors import SettingError
        from subsetopt.models.foreign import one_line

        w = flat.initial()
        w.grad = w.new_zeros(len(w))
        try:
            cls.make(config, flat, w, lr, 0.0).step()
        except (TypeError, ValueError, IndexError) as error:
            said = ", ".join(f"{key}={value}" for key, value in config.settings.items())
            raise SettingError(setting, config.method, f"{one_line(error)} ({said})", "mend its arguments") from error


class OptimizerRegistry(Registry[type[FirstOrderMethod]]):
    """Knows import paths, `package.module:Class`, beside registered names; either may have arguments in parentheses."""

    def entry(self, name: str) -> Entry[type[FirstOrderMethod]]:
        """Return the entry of a name, or one made for an import path, which is not imported yet."""
        if isinstance(name, str) and is_import_path(bare := name_of(name)):
            from subsetopt.training.phases.first_order.foreign import foreign_method

            return Entry(bare, "an optimizer by its import path", foreign_method(bare))
        return super().entry(name_of(name) if isinstance(name, str) else name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return is_import_path(bare := name_of(name)) or super().__contains__(bare)


OPTIMIZERS = OptimizerRegistry("optimizer", __name__)
