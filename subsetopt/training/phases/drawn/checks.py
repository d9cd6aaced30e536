"""What is refused of draws by residual before any work, and the settings of their solver."""

from __future__ import annotations

import torch

from subsetopt.errors import SettingError, setting
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.scipy_reference import ScipySolver
from subsetopt.training.context import RunContext
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.phases.solver import solver_of
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData

FACTOR_SHARE, FEWEST_FACTORS = 0.1, 100  # of all samples, and at least: those that K-FAC is estimated on
SHARE, ENOUGH = 0.25, 500  # of the samples in the first draws by default; of few of them so many samples, or half
FEWEST_SAMPLES = 2 * FEWEST_FACTORS  # of which half would be drawn: of fewer, all are solved on at once
PROBED = 4
STEPS = 80  # of SGD in an epoch of the start: with fewer it does not come far, with more it goes where a solver is slow
SMALLEST, LARGEST = 8, 64  # batches of the start


def check_drawn(config: PhaseConfig, data: TrainingData, run: RunContext) -> None:
    """Raise a `UserError` where a draw would be of another function than that of all samples, or have no residuals."""
    name = setting_name(run.config, config, "draw")
    plain = f"use {setting(name, 'uniform')}"
    if config.method in METHODS or config.method not in SOLVERS:
        problem = f"needs a full-batch solver, not {config.method}"
        raise SettingError(
            name, config.draw, problem, f"use {setting(setting_name(run.config, config, 'method'), 'lbfgs')}"
        )
    if isinstance(solver_of(config), ScipySolver):
        problem = f"{config.method} cannot be stopped at the end of a round"
        raise SettingError(
            name, config.draw, problem, f"use {setting(setting_name(run.config, config, 'method'), 'lbfgs')}"
        )
    if run.model.flat.batch_dependent:
        problem = "BatchNorm normalises by the samples beside, and those drawn are not like all"
        raise SettingError(name, config.draw, problem, f"{plain}, or a model without BatchNorm")
    if data.copies:
        raise SettingError(
            "augment_copies", data.copies, f"does not go with {setting(name, config.draw)}", "set it to 0"
        )
    if config.stop_at == "noise":
        own = setting_name(run.config, config, "stop_at")
        raise SettingError(own, "noise", f"does not go with {setting(name, config.draw)}", "use minimum or validation")
    if data.full_size >= 2:
        # Two unequal factors: a loss that gives but a mean has none, and says so here.
        few = torch.arange(min(PROBED, data.full_size), device="cpu")
        factors = torch.ones(data.full_size, dtype=torch.float64, device="cpu")
        factors[0] = 0.5
        run.model.drawn(data.with_subset(few), factors)


def first_share(config: PhaseConfig, samples: int, fewest: int = FEWEST_SAMPLES) -> float:
    """Return which share of N = `samples` is drawn first; of fewer than `fewest` all of them, unless told otherwise."""
    if config.draw_share is not None:
        return config.draw_share
    return min(0.5, max(SHARE, ENOUGH / samples)) if samples >= fewest else 1.0


def solve_settings(
    config: PhaseConfig, run: RunContext, samples: int, drawn: int, fewest: int = FEWEST_SAMPLES
) -> PhaseConfig:
    """Return the phase with what its solver gets unless told otherwise: K-FAC, estimated on some samples.

    None is of use to fewer than `fewest` samples: to take its factors apart costs as much as many evaluations.
    """
    settings = dict(config.settings)
    if (
        samples >= fewest
        and hasattr(solver_of(config), "preconditioner")
        and not run.model.flat.is_called_by_loss
        and not settings.get("shard_memory")
    ):
        settings.setdefault("preconditioner", "kfac")
    if settings.get("preconditioner", "none") != "none":
        settings.setdefault("factor_share", min(1.0, max(FACTOR_SHARE * samples, FEWEST_FACTORS) / drawn))
    return config.model_copy(update={"settings": settings})


def start_of_draws(config: PhaseConfig, samples: int) -> PhaseConfig:
    """Return the first-order start with the batch size for N = `samples`."""
    return config.model_copy(update={"batch_size": max(SMALLEST, min(LARGEST, round(samples / STEPS)))})
