"""One cell of a study: a method at a budget with a seed, as the settings of a run and its directory.

The name of a cell's directory holds a hash of its settings: equal settings are never run twice by one version of this
package, whatever has been added to the study since, and a cell whose settings changed is another cell.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from subsetopt.compare.config import ValidatedStudy, table_settings
from subsetopt.compare.knobs import decay_knob, knob_of
from subsetopt.compare.methods import Method, parse_methods
from subsetopt.compare.regularisation import check_common_l2, check_own_decay, with_coupled_l2
from subsetopt.documents.run import RunDocument
from subsetopt.errors import RunDirectoryError, SettingError, UserError, unknown_name
from subsetopt.facts import Knob
from subsetopt.files import file_digest
from subsetopt.report.metrics_file import read_metrics
from subsetopt.report.result_file import read_result_file
from subsetopt.training.finishing import SPLITS, Interrupted
from subsetopt.training.result import version_of
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.run_directory import CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, RunDirectory
from subsetopt.training.settings.run import RunConfig, make_config

WARMUP_SHARE = 0.1  # of the budget, for a method with a first-order start
LOOKS = 40  # at held-out data, per run
LOOK_EPOCHS = 0.5  # between looks under a budget in seconds
Status = Literal["done", "failed", "interrupted"]
# Where data and results lie, how often a run is saved: none of it changes a result.
_NO_MATTER = {"output", "data_dir", "data_file", "test_file", "checkpoint_seconds", "track_validation"}
_REMEDIES = {
    "subset_frac": "give a larger share after @",
    "grow_start": "give a larger share after @",
    "grow": "give a factor above 1 after x, such as 2",
}
_ONE_RUN = threading.Lock()  # runs share torch's global state, so the threads of one worker take turns


@dataclass(frozen=True)
class Cell:
    """What to run: `purpose` is "tuning" or "cells", the folder of its directory; `config` has no output."""

    method: str
    budget: float
    seed: int
    purpose: Literal["tuning", "cells"]
    config: RunConfig

    @cached_property
    def id(self) -> str:
        """A readable name that is unique to the settings, e.g. `adam-b3-s0-1f0c9a2e`."""
        settings = self.config.model_dump(mode="json", exclude=_NO_MATTER)
        settings["data"] = None if self.config.data_file is None else file_digest(self.config.data_file)
        if self.config.test_file is not None:
            settings["test"] = file_digest(self.config.test_file)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", self.method).strip("-")[:40]
        return f"{stem}-b{self.budget:g}-s{self.seed}-{digest}"

    def directory(self, root: Path) -> Path:
        """Return where the run lies."""
        return root / self.purpose / self.id


@dataclass(frozen=True)
class CellOutcome:
    """How a cell ended; `reused` when it had been finished before."""

    status: Status
    error: str = ""
    reused: bool = False


class CellMaker:
    """Makes the cells of a study: `methods` in order, each with its knob."""

    def __init__(self, study: ValidatedStudy) -> None:
        self.study = study
        self.methods = _methods(study)
        if study.config.baseline is not None and study.config.baseline not in self.methods:
            raise unknown_name("baseline", study.config.baseline, self.methods)
        self.knobs = {method.name: self._knobs(method) for method in self.methods.values()}

    def cell(
        self,
        method: str,
        budget: float,
        seed: int,
        values: Mapping[str, float] | None = None,
        purpose: Literal["tuning", "cells"] = "cells",
    ) -> Cell:
        """Return the cell of `method` with its knobs at `values` (default: the defaults); raises `SettingError`."""
        chosen, study, values = self.methods[method], self.study.config, values or {}
        base = self._base(chosen, seed)
        share = values.get("solve_share", chosen.solve_share or study.solve_share)
        phases = self._budgeted(base, budget, share, "stop_at" in chosen.settings)
        own_decay = any(knob.name == "weight_decay" for knob in self.knobs[method])
        phases = [with_coupled_l2(phase) for phase in phases[:-1]] + [
            phases[-1] if own_decay else with_coupled_l2(phases[-1])
        ]
        for knob in self.knobs[method]:
            if knob.name in values:
                phases = _with_knob(phases, knob, values[knob.name])
        limit = {"max_epochs": budget} if study.budget_unit == "epochs" else {"max_seconds": budget}
        track = budget / LOOKS if study.budget_unit == "epochs" else LOOK_EPOCHS
        if base.validation_fraction > 0 and purpose == "cells":  # a search reads the end of its runs alone
            limit["track_validation"] = track
        settings = {**base.model_dump(), "phase": phases, **limit, "l2": values.get("l2", base.one_strength)}
        return Cell(method, budget, seed, purpose, make_config(settings))

    def _knobs(self, method: Method) -> tuple[Knob, ...]:
        """Return what the study tunes of a method: its own setting, the strength of its regularisation, or both."""
        study, base = self.study.config, self._base(method, 0)
        check_own_decay(method, base)
        last = base.phases()[-1]
        own = knob_of(base.phases(), method.solve_share or study.solve_share) if "rate" in study.tune else None
        decay = decay_knob(last, base.one_strength, method.name) if "l2" in study.tune else None
        if decay is None:
            check_common_l2(method, base, self.study)
        return tuple(knob for knob in (own, decay) if knob is not None)

    def description(self, method: str) -> RunConfig:
        """Return the settings that a method means before a budget is laid on it."""
        return self._base(self.methods[method], 0)

    def _base(self, method: Method, seed: int) -> RunConfig:
        try:
            return make_config(self.study.shared, {"max_iterations": None}, method.settings, {"seed": seed})
        except SettingError as error:
            raise of_method(method, error) from None

    def _budgeted(self, base: RunConfig, budget: float, share: float, own_stop: bool) -> list[dict[str, Any]]:
        """Lay the budget on the phases: the last may spend what the earlier ones left.

        A warm-up takes `WARMUP_SHARE`, the subset solves at most `share` between them; these stop by `solve_stop_at`
        where the method does not say otherwise. Growing stages have their part together: each leaves what it does not
        need to the next.
        """
        study, phases = self.study.config, base.phases()
        limit, other = ("epochs", "seconds") if study.budget_unit == "epochs" else ("seconds", "epochs")
        growing = any(phase.role == "grow" for phase in phases)
        solves = 1 if growing else sum(phase.role == "solve" for phase in phases[:-1])
        budgeted = []
        for phase in phases[:-1]:
            part = WARMUP_SHARE if phase.role == "warmup" else share / max(solves, 1)
            settings = {**phase.model_dump(), limit: part * budget, other: None, "cumulative": growing}
            if phase.role == "solve" and not own_stop and not phase.streaming and phase.draw == "uniform":
                settings["stop_at"] = study.solve_stop_at
            budgeted.append(settings)
        return [*budgeted, {**phases[-1].model_dump(), limit: budget, other: None}]


def of_method(method: Method, error: SettingError) -> SettingError:
    """Return an error in a setting that the method's name means, as one in `methods`; any other as it is."""
    if error.setting not in method.settings:
        return error
    if "@" not in method.name:
        return SettingError(error.setting, error.value, f"of method {method.name!r}: {error.problem}", error.remedy)
    return SettingError("methods", method.name, error.problem, _REMEDIES.get(error.setting, ""))


def set_aside(cell: Cell, root: Path) -> str | None:
    """Rename what another version of this package has run of the cell; return that version, None where there is none.

    Results of two versions are no fair comparison. Nothing is lost: the version is added to the directory's name.
    """
    directory = RunDirectory(cell.directory(root))
    if not (directory.path / ENVIRONMENT).is_file():
        return None
    other = version_of(directory)
    if other == version("subsetopt"):
        return None
    kept = directory.path.with_name(f"{directory.path.name}-{re.sub(r'[^A-Za-z0-9.+]+', '-', other)[:40]}")
    shutil.rmtree(kept, ignore_errors=True)  # the same cell of the same version, from before another change
    directory.path.rename(kept)
    return other


def run_cell(cell: Cell, root: Path, threads: int | None = None) -> CellOutcome:
    """Run a cell, resume it where it was interrupted, or reuse its result; never raises for its failure.

    `threads` limits torch's threads, for workers that share a machine.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    directory = cell.directory(root)
    if read_result(cell, root) is not None:
        return CellOutcome("done", reused=True)
    splits = [name for name in SPLITS if name == "validation"] if cell.purpose == "tuning" else SPLITS
    try:
        with _ONE_RUN:
            if _begun(directory):
                resume_run(directory, splits=splits, figure=False, may_idle=True)
            else:
                with RunDirectory(directory).sole_user(going_on=True) if directory.is_dir() else nullcontext():
                    pass  # a process that has only begun, elsewhere, keeps its directory
                shutil.rmtree(directory, ignore_errors=True)  # killed before it had begun
                config = cell.config.model_copy(update={"output": directory})
                train(config, splits=splits, figure=False, may_idle=True, save_at_once=False)
    except Interrupted:
        return CellOutcome("interrupted")
    except UserError as error:
        return CellOutcome("failed", " ".join(str(error).split()))
    except Exception as error:
        return CellOutcome("failed", " ".join(f"{type(error).__name__}: {error}".split()))
    return CellOutcome("done")


def _begun(directory: Path) -> bool:
    """Tell whether a cell's run has anything to go on from; its settings, and with them its name, are known here."""
    return (directory / CONFIG).is_file() and (
        (directory / ENVIRONMENT).is_file() or (directory / CHECKPOINT).is_file()
    )


def read_result(cell: Cell, root: Path) -> RunDocument | None:
    """Return the result.json of a finished cell, None where there is none or it is damaged: the cell then ends anew."""
    directory = cell.directory(root)
    try:
        result = read_result_file(directory, "")
        read_metrics(directory / METRICS)
    except RunDirectoryError:
        return None
    return result


def _methods(study: ValidatedStudy) -> dict[str, Method]:
    methods = parse_methods(study.config.methods)
    for table in study.config.method:
        name, share, settings = table_settings(table)
        methods.append(Method(name, settings, share))
    named = {method.name: method for method in methods}
    if len(named) < len(methods):
        twice = next(method.name for method in methods if sum(other.name == method.name for other in methods) > 1)
        raise SettingError("methods", twice, "is listed twice", "keep one of them")
    return named


def _with_knob(phases: Sequence[Mapping[str, Any]], knob: Knob, value: float) -> list[dict[str, Any]]:
    """Return `phases` with a knob of theirs at `value`; solve share and L2 are no settings of a phase."""
    earlier, last = [dict(phase) for phase in phases[:-1]], dict(phases[-1])
    if knob.name == "noise_theta":
        return [{**phase, "noise_theta": value} if phase["role"] == "grow" else phase for phase in [*earlier, last]]
    if knob.name in ("lr", "weight_decay", "draw_share"):
        last[knob.name] = value
    elif knob.name not in ("solve_share", "l2"):
        last["settings"] = {**last["settings"], knob.name: int(value) if knob.whole else value}
    return [*earlier, last]
