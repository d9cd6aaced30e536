"""The name under which `subsetopt compare` runs the strategy of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subsetopt.documents.run import LossOf, PhaseEntry, RunDocument
from subsetopt.report.words import loss_of


def method_name(run: RunDocument, settings: Mapping[str, Any]) -> str | None:
    """Return the strategy of `run` as a method of a comparison, e.g. `lbfgs@0.1+srs`; None where it has no name there.

    `settings` are those of its config.toml. A method has no warm-up, and no settings of a sampler but its fraction.
    """
    solver, handoff = settings.get("solver"), _handoff(run, settings)
    if settings.get("phase") or settings.get("subsets", 1) != 1 or not isinstance(solver, str) or handoff is None:
        return None
    if solver == "none":
        return handoff or None
    solves = [phase for phase in run.phases if phase.role == "solve"]
    if not solves:
        return None
    if loss_of(solves[-1].method, solves[-1].loss_of) == LossOf.FRESH_BATCH:
        head = solver
    elif settings.get("subset_draw", "uniform") == "residual":
        head = f"{solver}@residual"
    elif settings.get("grow") is not None:
        head = f"{solver}@{settings.get('grow_start', 0.01):g}x{settings['grow']:g}"
    else:
        share = settings.get("subset_frac") if settings.get("subset_size") is None else None
        head = f"{solver}@{solves[-1].samples / run.dataset.train if share is None else share:.3g}"
    return f"{head}+{handoff}" if handoff else head


def _handoff(run: RunDocument, settings: Mapping[str, Any]) -> str | None:
    """Return what follows the solve as a method's name has it, empty where nothing does; None where it has no name."""
    handoff = settings.get("handoff", "none")
    if handoff == "none":
        return ""
    last = run.phases[-1] if run.phases else None
    if last is None or last.role != "handoff":
        return None
    if handoff == "full":
        return last.method if settings.get("solver") in ("none", None) else _full(last, settings)
    if handoff == last.method:
        return str(handoff)
    fraction = (settings.get("handoff_args") or {}).get("fraction")
    share = "" if fraction is None else f"@{fraction:g}"
    return f"{handoff}{share}{'' if last.method == 'sgd' else f'/{last.method}'}"


def _full(last: PhaseEntry, settings: Mapping[str, Any]) -> str:
    return "full" if last.method == settings.get("solver") else last.method
