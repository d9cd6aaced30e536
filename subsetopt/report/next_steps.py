"""What to do after a run: it follows from how the phases ended."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsetopt.documents.run import PhaseEntry, RunDocument
from subsetopt.errors import typed
from subsetopt.report.method_name import method_name
from subsetopt.report.words import is_mini_batch

Step = tuple[str, str]
"""A command, and what it is for."""

SHORT = 60.0
"""Seconds of a run that may well be repeated a dozen times."""

_LIMITS = ("max_iterations", "budget")
_KEPT = ("dataset", "data_file", "target_column", "test_file", "embed_words", "data_dir", "task", "model")
_OBJECT = "(given as an object)"
_RESUMED = "go on to the minimum: the limit was reached first"


def next_steps(result: RunDocument, directory: Path) -> list[Step]:
    """Return commands for the run in `directory`, the most useful first."""
    run, settings = typed(directory), _settings(directory)
    if _OBJECT in (settings.get("model"), settings.get("dataset")):
        return [(f"subsetopt report {run}", "draw figure and summary again; all else needs the Python objects")]
    steps = [*_to_the_minimum(result, run, settings), *_on_the_minimum(result, run), *_comparison(result, settings)]
    steps.append((f"subsetopt evaluate {run}", "measure the saved model again"))
    new = "NEW.npz" if result.dataset.encoding is None else "NEW.csv"
    steps.append((f"subsetopt predict {run} --data-file {new}", "predict new data"))
    return steps


def _to_the_minimum(result: RunDocument, run: str, settings: Mapping[str, Any]) -> list[Step]:
    """Return how to go on where a full-batch solver was stopped by a limit."""
    cut = next((index for index, phase in enumerate(result.phases) if _cut_short(phase)), None)
    if cut is None or settings.get("phase"):
        return []
    phase, later = result.phases[cut], result.phases[cut + 1 :]
    option = _larger_limit(phase, result, settings)
    if not later or (phase.stop_reason == "budget" and all(other.stop_reason == "budget" for other in later)):
        return [(f"subsetopt resume {run} {option}", _RESUMED)]
    command = f"subsetopt train --config {run}/config.toml {option} --output NEW"
    return [(command, "train anew with more iterations: the solve stopped before its minimum")]


def _cut_short(phase: PhaseEntry) -> bool:
    """Whether a solver on one fixed set of samples was stopped by its limit."""
    one_solve = phase.gradient_norm is not None and phase.role != "grow" and not phase.subsets
    return one_solve and phase.stop_reason in _LIMITS and not is_mini_batch(phase.method, phase.loss_of)


def _larger_limit(phase: PhaseEntry, result: RunDocument, settings: Mapping[str, Any]) -> str:
    """Return the option that admits twice as much of what ran out."""
    if phase.stop_reason == "max_iterations":
        return f"--max-iterations {2 * phase.iterations}"
    total, seconds = settings.get("max_epochs"), settings.get("max_seconds")
    if seconds is not None and result.cost.seconds >= seconds:
        return f"--max-seconds {2 * seconds:g}"
    name = "handoff_epochs" if phase.role == "handoff" else "solver_epochs"
    own = settings.get(name)
    if total is not None and (own is None or phase.epoch_equivalents < 0.9 * own):
        return f"--max-epochs {2 * total:g}"
    return f"--{name.replace('_', '-')} {2 * (own or phase.epoch_equivalents):.3g}"


def _on_the_minimum(result: RunDocument, run: str) -> list[Step]:
    """Return what a minimum is good for: the certificate, and how well its subset stands for all data."""
    solves = [phase for phase in result.phases if phase.role == "solve" and phase.stop_reason == "gradient"]
    if not solves:
        return []
    steps = [(f"subsetopt verify {run}", "check that the solve ended in a minimum, not at a saddle point")]
    if solves[-1].data == "subset":
        steps.append((f"subsetopt ratio --effective {run}", "measure how well the subset stands for all data"))
    return steps


def _comparison(result: RunDocument, settings: Mapping[str, Any]) -> list[Step]:
    """Return the comparison of the run's strategy with plain SGD where runs are short enough to be repeated."""
    if result.cost.seconds > SHORT or not settings.get("dataset") or not settings.get("model"):
        return []
    options = [f"--{name.replace('_', '-')} {shlex.quote(str(settings[name]))}" for name in _KEPT if settings.get(name)]
    options += [
        f"--model-arg {shlex.quote(f'{name}={_value(value)}')}"
        for name, value in settings.get("model_args", {}).items()
    ]
    if settings.get("drop"):
        # A name with a comma is quoted as the flag reads it.
        options.append(f"--drop {shlex.quote(','.join(_listed_name(str(name)) for name in settings['drop']))}")
    own = method_name(result, settings)
    rival = "adam" if own == "sgd" else "sgd"
    methods = ",".join([own or "lbfgs@0.1+sgd", rival])
    budget = f"{float(f'{max(1.0, result.cost.epoch_equivalents):.2g}'):.15g}"  # two digits, never 4.5e+02
    command = f"subsetopt compare {' '.join(options)} --methods {methods} --budget {budget} --seeds 3"
    warmup = ", without its warm-up" if own and settings.get("warmup", "none") not in ("none", None) else ""
    what = "compare" if own is None else "compare this strategy"
    return [(command, f"{what} with plain {'Adam' if rival == 'adam' else 'SGD'} at equal cost{warmup}")]


def _value(value: object) -> str:
    """Return a setting as `--model-arg` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def _listed_name(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"' if set(name) & {",", '"'} else name


def _settings(directory: Path) -> dict[str, Any]:
    """Return the settings of the run; nothing where they cannot be read, which other commands say."""
    try:
        return tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
