"""Training: phases, the loop that runs them, the cost ledger and the run directory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subsetopt.training.evaluation import evaluate_run
    from subsetopt.training.resume import resume_run
    from subsetopt.training.run import train
    from subsetopt.training.settings.phase import PhaseConfig
    from subsetopt.training.settings.run import RunConfig, make_config
    from subsetopt.training.trainer import SubsetTrainer

_HOMES = {
    "PhaseConfig": "settings.phase",
    "RunConfig": "settings.run",
    "make_config": "settings.run",
    "SubsetTrainer": "trainer",
    "evaluate_run": "evaluation",
    "resume_run": "resume",
    "train": "run",
}
__all__ = ["PhaseConfig", "RunConfig", "SubsetTrainer", "evaluate_run", "make_config", "resume_run", "train"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that reading a configuration does not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
