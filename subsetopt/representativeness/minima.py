"""One minimum of a study of representativeness: on the full set or a subset of it, found once and stored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from subsetopt.analysis.effective_number import effective_parameters
from subsetopt.data import draw, require_all_classes
from subsetopt.errors import RunDirectoryError, SettingError, UserError
from subsetopt.files import DIGEST, file_digest
from subsetopt.objective import Objective
from subsetopt.overdetermination import overdetermination_ratio
from subsetopt.seeding import derive_seed
from subsetopt.training.context import PreparedRun
from subsetopt.training.loss_scale import minimize_relative
from subsetopt.training.preparation import prepare
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

EFFECTIVE_ROWS = 2000  # of the training data, on which tr(H^-1 C) is estimated


@dataclass(frozen=True)
class Minimum:
    """One solved subset; `fraction` 1 with `repeat` 0 is the full set. Objectives have their L2 term, losses have not.

    `excess` is F/F*; `ratio` is Q = K M / P; `test_metric` accuracy or mse, and R² beside mse, on the split
    `measured_on`: held-out data where there are no test data. `effective_parameters` is tr(H^-1 C), for regression of
    the squared errors over twice their mean.
    """

    seed: int
    fraction: float
    repeat: int
    samples: int
    ratio: float
    subset_objective: float
    full_objective: float
    excess: float | None
    train_loss: float
    test_loss: float | None
    test_metric: float | None
    gradient_norm: float
    converged: bool
    stop_reason: str
    iterations: int
    epoch_equivalents: float
    effective_parameters: float | None = None
    measured_on: str = "test"
    test_r2: float | None = None


@dataclass(frozen=True)
class MinimumTask:
    """One minimum to find; `fraction` 1 with `repeat` 0 is the full set; `effective`: estimate tr(H^-1 C) there."""

    seed: int
    fraction: float
    repeat: int
    effective: bool = field(default=False, compare=False)


def draw_subset(data: TrainingData, fraction: float, repeat: int) -> Tensor:
    """Return the rows of a subset, stratified where the run is; raises `UserError` where a class would be missing."""
    dataset = data.dataset
    seed = derive_seed(data.seed, f"repeat:{repeat}")
    try:
        rows = draw(len(dataset.train), fraction=fraction, seed=seed, stratify=data.strata)
        if dataset.task == "classification":
            require_all_classes(dataset.train.targets[rows], dataset.n_outputs)
    except SettingError as error:  # it names the settings of a run
        problem = f"leaves too few of {len(dataset.train)} samples: {error.problem}"
        raise SettingError("fractions", fraction, problem, "give larger ones") from None
    return rows


def stored_or_found(run: RunConfig, root: Path, threads: int | None, task: MinimumTask) -> Minimum:
    """Return the minimum that `root` holds, or find and store it; runs in a worker."""
    directory, name = RunDirectory(root), _file_name(run, task)
    stored = _stored(directory, name)
    if stored is not None and (stored.effective_parameters is not None or not task.effective):
        return stored
    if threads is not None:
        torch.set_num_threads(threads)
    prepared = _prepared(run.model_copy(update={"seed": task.seed}).model_dump_json(), json.dumps(_contents(run)))
    subset = None if task.fraction == 1 else draw_subset(prepared.data, task.fraction, task.repeat)
    found = _solve(prepared, subset, task)
    directory.write_json(name, {**asdict(found), "version": version("subsetopt")})
    return found


def _stored(directory: RunDirectory, name: str) -> Minimum | None:
    """Return the minimum that a file holds, None where there is none or it is damaged: it is then found anew."""
    if not (directory.path / name).is_file():
        return None
    try:
        content = {key: value for key, value in directory.read_json(name).items() if key not in ("version", DIGEST)}
        return TypeAdapter(Minimum).validate_json(json.dumps(content), strict=True)
    except (RunDirectoryError, ValidationError):
        return None


def set_aside(run: RunConfig, root: Path, tasks: Iterable[MinimumTask]) -> int:
    """Rename minima that another version of this package has found, so that they are found anew; return how many."""
    count = 0
    for path in (root / _file_name(run, task) for task in tasks):
        if not path.is_file():
            continue
        try:
            other = str(RunDirectory(root).read_json(path.name, unchanged=False).get("version", "unknown"))
        except RunDirectoryError:
            continue  # damaged: found anew and written over
        if other != version("subsetopt"):
            path.replace(path.with_name(f"{path.stem}-{other}{path.suffix}"))
            count += 1
    return count


def _file_name(run: RunConfig, task: MinimumTask) -> str:
    settings = run.model_dump(
        mode="json", exclude={"output", "data_dir", "data_file", "test_file", "checkpoint_seconds", "seed"}
    )
    settings |= _contents(run)  # what the files hold matters, not where they lie
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"f{task.fraction:g}-r{task.repeat}-s{task.seed}-{digest}.json"


def _contents(run: RunConfig) -> dict[str, str | None]:
    """Return digests of the files of data, by setting."""
    files = {"data_file": run.data_file, "test_file": run.test_file}
    known = {name: path for name, path in files.items() if path is not None and path.is_file()}
    return {name: _content(path, path.stat().st_mtime_ns, path.stat().st_size) for name, path in known.items()}


@lru_cache(maxsize=8)
def _content(path: Path, changed: int, size: int) -> str | None:
    return file_digest(path)


@lru_cache(maxsize=1)
def _prepared(settings: str, contents: str) -> PreparedRun:
    """Return data and model of these settings (JSON) and digests of files (JSON).

    A worker that goes on with the same seed reads the data once.
    """
    return prepare(RunConfig.model_validate_json(settings))


def _solve(prepared: PreparedRun, subset: Tensor | None, task: MinimumTask) -> Minimum:
    data, budget, run = prepared
    config, before = run.config, budget.ledger.cost
    split = SplitName.TRAIN if subset is None else SplitName.SUBSET
    own = data if subset is None else data.with_subset(subset)
    objective = run.model.objective(own, split)
    solved = minimize_relative(
        objective,
        run.model.flat.initial(),
        config.solver,
        gtol=config.gtol,
        max_iterations=config.max_iterations,
        **config.solver_args,
    )
    cost = budget.ledger.cost - before
    whole = (
        solved.loss
        if subset is None
        else float(run.model.objective(data, SplitName.TRAIN).value(solved.x, "evaluation"))
    )
    run.model.refresh_batch_norm(own, solved.x, split)
    elsewhere = SplitName.VALIDATION if data.dataset.test is None else SplitName.TEST
    train, test = (run.model.evaluate(data, solved.x, split) for split in (SplitName.TRAIN, elsewhere))
    assert train is not None, "every data set has training data"
    samples = own.samples(split)
    return Minimum(
        task.seed,
        task.fraction,
        task.repeat,
        samples,
        overdetermination_ratio(run.model.flat.size, samples, data.dataset.n_outputs).ratio,
        solved.loss,
        whole,
        None,
        train["loss"],
        None if test is None else test["loss"],
        None if test is None else test.get("accuracy", test.get("mse")),
        solved.gradient_norm,
        solved.converged,
        str(solved.stop_reason),
        solved.iterations,
        cost,
        _effective(config, solved.x) if task.effective else None,
        str(elsewhere),
        None if test is None else test.get("r2"),
    )


def _effective(config: RunConfig, w: Tensor) -> float | None:
    """Return tr(H^-1 C) at the minimum w of all training data, in float64 on at most `EFFECTIVE_ROWS` rows of them."""
    data, _, run = prepare(config.model_copy(update={"dtype": "float64"}))
    inputs, targets = data.trained(SplitName.TRAIN)
    count = len(targets)
    places = torch.linspace(0, count - 1, min(count, EFFECTIVE_ROWS), device="cpu").round().long()
    w = w.to(run.model.flat.device, torch.float64)
    objective = Objective(
        run.model.flat,
        inputs,
        targets,
        loss=run.model.loss,
        l2=run.model.l2,
        indices=places,
        preprocess=data.preprocess,
        meter=run.model.ledger,
        check_deterministic=False,
    )
    try:
        mse = float(objective.value(w, "evaluation")) - 0.5 * run.model.l2 * float(w.square().sum())
        found = effective_parameters(objective, w, seed=config.seed)
    except (UserError, RuntimeError, FloatingPointError):  # a model without gradients of single samples, for example
        return None
    if found is None or not math.isfinite(found.value) or found.value <= 0:
        return None
    if data.dataset.task == "classification":
        return found.value
    # Of squared errors tr(H^-1 C) has their unit; the likelihood of Gaussian errors is l / (2 s^2) per column.
    return found.value * data.dataset.n_outputs / (2 * mse) if mse > 0 else None
