"""The list of phases that the flags of a run mean."""

from __future__ import annotations

from typing import Any

from subsetopt.training.phases.first_order.inline_arguments import joined
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS, is_stream
from subsetopt.training.settings.declaration import Role, names_in_phase
from subsetopt.training.settings.fields import RunFields
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.plans import chosen_plan


def planned_phases(config: RunFields) -> tuple[PhaseConfig, ...]:
    """Return warm-up, solve and hand-off as phases; raises pydantic's `ValidationError` for what a phase refuses."""
    planned: list[dict[str, Any]] = []
    if config.warmup != "none":
        planned.append({"method": config.warmup, "role": "warmup", **_declared(config, "warmup")})
    if is_stream(config.solver):
        stream = {"method": config.solver, "data": "full", **_declared(config, "stream")}
        planned.append({**stream, "epochs": config.solver_epochs or METHODS.get(config.solver).epochs})
    elif config.solver != "none":
        planned += _solves(config)
    if config.handoff != "none":
        planned.append(_handoff(config))
    return tuple(PhaseConfig(**phase) for phase in planned)


def _declared(config: RunFields, role: Role) -> dict[str, Any]:
    """Return the settings of a phase of this role, by their names in `PhaseConfig`."""
    return {key: getattr(config, name) for key, name in names_in_phase(type(config), role).items()}


def _handoff(config: RunFields) -> dict[str, Any]:
    if config.handoff == "full":
        own = config.solver != "none" and not is_stream(config.solver)
        solver = config.handoff_solver or (config.solver if own else "lbfgs")
        settings = (config.solver_args if solver == config.solver else {}) | config.handoff_args
        shared = {"method": solver, "settings": settings, **_declared(config, "full")}
    else:
        named = config.handoff in OPTIMIZERS
        shared = {
            **_declared(config, "handoff"),
            "method": config.handoff if named else config.handoff_optimizer,
            "sampler": "full" if named else config.handoff,
            "sampler_settings": {} if named else config.handoff_args,
        }
        if named:
            shared["settings"] = joined(shared["settings"], config.handoff_args)
    return {"data": "full", "role": "handoff", **shared}


def _solves(config: RunFields) -> list[dict[str, Any]]:
    """Return the solve on the subset, or what the chosen plan makes of it."""
    solve = {"method": config.solver, **_declared(config, "solve")}
    if config.solver in METHODS and config.solver_epochs is None:
        solve["epochs"] = METHODS.get(config.solver).epochs
    return chosen_plan(config).phases(config, solve)
