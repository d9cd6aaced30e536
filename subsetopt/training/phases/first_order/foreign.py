"""Optimizers of other packages: `package.module:Class`, a subclass of torch.optim.Optimizer or what makes one.

They see the parameters in their shapes, not as one vector. The weight decay of a phase is the L2 penalty, added to the
gradient for all of them alike, so that all minimise one objective; an argument `weight_decay` in the settings is the
optimizer's own, whatever it means by it, and replaces the penalty. Imports no torch before it is asked to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from subsetopt.arguments import kind_of
from subsetopt.errors import SettingError
from subsetopt.training.phases.first_order.arguments import checked_arguments, parameters_of
from subsetopt.training.phases.first_order.optimizers import FirstOrderMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from subsetopt.objective import FlatModel
    from subsetopt.training.settings.phase import PhaseConfig


class ForeignMethod(FirstOrderMethod):
    """An optimizer at the import path `path`; `package` is the extra that has it, `defaults` differ from its own."""

    path: ClassVar[str]
    name: ClassVar[str]
    package: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
    rate: ClassVar[float] = 0.0  # 0: the default of the class itself
    of_phase: ClassVar[tuple[str, ...]] = ("lr",)

    @classmethod
    def default_rate(cls, setting: str = "optimizer") -> float:
        """Return the rate declared here, else the default of the class; raises `SettingError` where it has none."""
        default = getattr(parameters_of(cls.loaded(setting)).get("lr"), "default", None)
        if cls.rate:
            return cls.rate
        if isinstance(default, bool) or not isinstance(default, int | float) or default <= 0:
            raise SettingError(
                setting, cls.name, "has no default learning rate", f"write {cls.name}(lr=0.01), or another rate"
            )
        return float(default)

    @classmethod
    def factory(cls) -> Callable[..., Any]:
        """Return the class; raises `SettingError` where it cannot be imported."""
        return cls.loaded("optimizer")

    @classmethod
    def loaded(cls, named: str) -> Callable[..., Any]:
        """Return the class; raises `SettingError` for the setting `named` where it is not there or takes no rate."""
        from subsetopt.models.foreign import current_directory_importable, import_object

        try:
            with current_directory_importable():
                found = import_object(cls.path)
        except ImportError as error:
            if cls.package is not None:
                remedy = f"pip install 'subsetopt[{cls.package}]'"
                raise SettingError(named, cls.name, f"needs another package: {error}", remedy) from None
            raise SettingError(named, cls.name, str(error), "write package.module:Class") from None
        if not callable(found):
            raise SettingError(named, cls.name, f"is {kind_of(found)}, not a class", "name an optimizer")
        if "lr" not in parameters_of(found):
            raise SettingError(
                named, cls.name, "takes no lr, which schedules and tuning set", "name a torch.optim.Optimizer with one"
            )
        return found

    @classmethod
    def arguments(cls, config: PhaseConfig, setting: str = "optimizer") -> dict[str, Any]:
        """Return keywords of the class: its defaults here, `settings`, and no weight decay of its own unless given."""
        found = cls.loaded(setting)
        given = {**cls.defaults, **config.settings}
        if "weight_decay" in parameters_of(found):
            given.setdefault("weight_decay", 0.0)
        return checked_arguments(cls.name, found, given)

    @classmethod
    def has_own_decay(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether the settings hold the optimizer's own weight decay."""
        return "weight_decay" in settings

    @classmethod
    def make(
        cls, config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer on views of `w`."""
        from subsetopt.training.phases.first_order.per_tensor import PerTensorOptimizer

        return PerTensorOptimizer(cls.builder(config, "optimizer"), flat.views, w, lr, weight_decay, cls.name)

    @classmethod
    def builder(cls, config: PhaseConfig, named: str) -> Callable[[list[Tensor], float], torch.optim.Optimizer]:
        """Return (parameters, rate) -> the optimizer, which raises `SettingError` where the class refuses arguments."""
        factory, arguments = cls.loaded(named), cls.arguments(config, named)

        def build(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
            return _built(factory, parameters, {"lr": lr, **arguments}, named, cls.name)

        return build

    @classmethod
    def check(cls, flat: FlatModel, setting: str) -> None:
        """Raise `SettingError` where it cannot be imported."""
        cls.loaded(setting)

    @classmethod
    def rehearse(cls, config: PhaseConfig, flat: FlatModel, lr: float, setting: str) -> None:
        """Raise `SettingError` where steps on small tensors fail, do nothing, or differ after saving and restoring."""
        from subsetopt.training.phases.first_order.rehearsal import rehearse

        rehearse(cls.builder(config, setting), flat.shapes, flat.dtype, flat.device, lr, (setting, cls.name))


@functools.cache
def foreign_method(path: str) -> type[ForeignMethod]:
    """Return the method for an import path, which is imported when it is first needed."""
    return type("Foreign", (ForeignMethod,), {"__doc__": f"`{path}`.", "path": path, "name": path})


def _built(
    factory: Callable[..., Any], parameters: list[Tensor], keywords: dict[str, Any], named: str, name: str
) -> torch.optim.Optimizer:
    import torch

    from subsetopt.models.foreign import one_line

    try:
        optimizer = factory(parameters, **keywords)
    except Exception as error:
        said = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise SettingError(
            named, name, f"cannot be made with {said}: {one_line(error)}", "mend its arguments"
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SettingError(named, name, f"makes {kind_of(optimizer)}, not a torch.optim.Optimizer", "name an optimizer")
    if any("lr" not in group for group in optimizer.param_groups):
        raise SettingError(
            named, name, "keeps no 'lr' in its param_groups, which schedules set", "name another optimizer"
        )
    return optimizer
