"""Second-order training on random subsets of the data.

Names are imported on first use, so that `import subsetopt` costs nothing and the command line stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subsetopt.data import load_dataset as load_dataset
    from subsetopt.errors import DataError as DataError
    from subsetopt.errors import ModelError as ModelError
    from subsetopt.errors import RunDirectoryError as RunDirectoryError
    from subsetopt.errors import SettingError as SettingError
    from subsetopt.errors import UserError as UserError
    from subsetopt.models import build_model as build_model
    from subsetopt.objective import Objective as Objective
    from subsetopt.objective import Residuals as Residuals
    from subsetopt.objective import functional as functional
    from subsetopt.objective import model_loss as model_loss
    from subsetopt.overdetermination import Overdetermination as Overdetermination
    from subsetopt.overdetermination import overdetermination_ratio as overdetermination_ratio
    from subsetopt.solvers import SolveResult as SolveResult
    from subsetopt.solvers import StopReason as StopReason
    from subsetopt.solvers import minimize as minimize
    from subsetopt.training.prediction.predictor import Predictor as Predictor
    from subsetopt.training.prediction.predictor import load_predictor as load_predictor
    from subsetopt.training.trainer import SubsetTrainer as SubsetTrainer

    __version__: str

_HOMES = {
    "DataError": "errors",
    "ModelError": "errors",
    "Objective": "objective",
    "Overdetermination": "overdetermination",
    "Predictor": "training.prediction.predictor",
    "RunDirectoryError": "errors",
    "SettingError": "errors",
    "SolveResult": "solvers",
    "StopReason": "solvers",
    "SubsetTrainer": "training.trainer",
    "UserError": "errors",
    "Residuals": "objective",
    "build_model": "models",
    "functional": "objective",
    "load_dataset": "data",
    "load_predictor": "training.prediction.predictor",
    "minimize": "solvers",
    "model_loss": "objective",
    "overdetermination_ratio": "overdetermination",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name from its home (PEP 562)."""
    if name in _HOMES:
        from subsetopt.imports import uncollected

        with uncollected():
            return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "__version__":
        from subsetopt.version import own_version

        return own_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
