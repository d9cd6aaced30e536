"""The list of phases that the flags of a run mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS, is_stream
from subsetopt.training.settings.growth import growing_phases, growth_stages
from subsetopt.training.settings.phase import PhaseConfig

if TYPE_CHECKING:
    from subsetopt.training.settings.run import RunConfig


def planned_phases(config: RunConfig) -> tuple[PhaseConfig, ...]:
    """Return warm-up, solve and hand-off as phases; raises pydantic's `ValidationError` for what a phase refuses."""
    planned: list[dict[str, Any]] = []
    if config.warmup != "none":
        planned.append(
            {"method": config.warmup, "role": "warmup", "epochs": config.warmup_epochs, "lr": config.warmup_lr}
        )
    if is_stream(config.solver):
        epochs = config.solver_epochs or METHODS.get(config.solver).epochs
        planned.append({"method": config.solver, "settings": config.solver_args, "data": "full",
                        "epochs": epochs, "stop_at": config.stop_at})  # fmt: skip
    elif config.solver != "none":
        planned += _solves(config)
    if config.handoff == "full":
        solver = config.handoff_solver or (
            "lbfgs" if config.solver == "none" or is_stream(config.solver) else config.solver
        )
        settings = (config.solver_args if solver == config.solver else {}) | config.handoff_args
        planned.append({"method": solver, "settings": settings, "gtol": config.gtol, "data": "full",
                        "role": "handoff", "epochs": config.handoff_epochs,
                        "stop_at": config.handoff_stop_at})  # fmt: skip
    elif config.handoff != "none":
        named = config.handoff in OPTIMIZERS
        shared = ("lr", "batch_size", "schedule", "momentum", "nesterov", "weight_decay", "clip_norm",
                  "label_smoothing", "augmentation", "amp", "epochs", "stop_at")  # fmt: skip
        planned.append({"method": config.handoff if named else config.handoff_optimizer, "data": "full",
                        "role": "handoff", "sampler": "full" if named else config.handoff,
                        "sampler_settings": config.handoff_args,
                        **{name: getattr(config, f"handoff_{name}") for name in shared}})  # fmt: skip
    return tuple(PhaseConfig(**phase) for phase in planned)


def _solves(config: RunConfig) -> list[dict[str, Any]]:
    """Return the solve on the subset, or those on growing or on several subsets."""
    solve = {"method": config.solver, "settings": config.solver_args, "gtol": config.gtol, "stop_at": config.stop_at,
             "noise_theta": config.noise_theta, "max_iterations": config.max_iterations,
             "epochs": config.solver_epochs}  # fmt: skip
    if config.solver in METHODS and config.solver_epochs is None:
        solve["epochs"] = METHODS.get(config.solver).epochs
    if config.grow is not None:
        stages = growth_stages(config.start, config.grow, config.subset_share, config.grow_mode)
        stop = "minimum" if config.grow_stop == "cost" else config.grow_stop
        # All the data without augmented copies are what a phase on "full" works on.
        whole = {"data": "full"} if config.subset_frac is None and not config.augment_copies else {}
        return growing_phases({**solve, **whole}, stages, {"stop_at": stop, "epochs": config.grow_epochs}, config.carry)
    if config.subsets == 1:
        return [solve]
    then = "average" if config.subsets_then == "resolve" else config.subsets_then
    together = {**solve, "subsets": config.subsets, "subsets_then": then, "subsets_select": config.subsets_select}
    if config.subsets_then != "resolve":
        return [together]
    return [together, {**solve, "subsets": config.subsets, "subsets_then": "together"}]
