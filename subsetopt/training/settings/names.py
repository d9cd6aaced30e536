"""What the user called a setting of a phase: the flag's name where flags made the phase, else its key in [[phase]]."""

from __future__ import annotations

from subsetopt.training.settings.declaration import Role, names_in_phase
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig


def setting_name(run: RunConfig, phase: PhaseConfig, name: str) -> str:
    """Return the name in `RunConfig` of the setting `name` of `phase`, or `phase.2.name` for an explicit list.

    Phases are found by what they say, so that of two that are alike the first is named.
    """
    if run.phase:
        return f"phase.{run.phase.index(phase)}.{name}" if phase in run.phase else f"phase.{name}"
    if name == "method":
        return _method(phase)
    if phase.role == "warmup" and run.warmup == "none":
        return "draw_start"
    if phase.draw != "uniform" and (own := names_in_phase(RunConfig, "drawn").get(name)) is not None:
        return own
    if name == "sampler":
        return "handoff"
    if name == "settings" and phase.first_order:
        own = "handoff_args" if phase.sampler == "full" else "handoff_optimizer_args"
        return "warmup_args" if phase.role == "warmup" else own
    if name in ("settings", "sampler_settings"):
        return "handoff_args" if phase.role == "handoff" else "solver_args"
    solving: Role = "solve" if phase.role == "grow" else _role(phase)
    return (names_in_phase(RunConfig, solving) | names_in_phase(RunConfig, _role(phase))).get(name, name)


def _role(phase: PhaseConfig) -> Role:
    if phase.role == "handoff":
        return "handoff" if phase.first_order else "full"
    return "stream" if phase.streaming else phase.role


def _method(phase: PhaseConfig) -> str:
    if phase.role == "warmup":
        return "warmup"
    if phase.role != "handoff":
        return "solver"
    if not phase.first_order:
        return "handoff_solver"
    return "handoff" if phase.sampler == "full" else "handoff_optimizer"
