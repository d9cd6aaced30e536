"""What a finished run says of itself: result.json, and the environment that it ran in."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch

from subsetopt.data import Normalization
from subsetopt.data.digest import dataset_digest, split_digests
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.distributed import Ranks
from subsetopt.documents.run import (
    Assessment,
    Cost,
    DatasetEntry,
    Metrics,
    Model,
    Models,
    OwnLoss,
    PhaseEntry,
    Purpose,
    Ratio,
    RunDocument,
    Scaling,
    SolveEntry,
)
from subsetopt.documents.table import TableEntry
from subsetopt.errors import RunDirectoryError
from subsetopt.objective.weighting import without_weights
from subsetopt.overdetermination import verdict
from subsetopt.training.checks.affordable import no_better, stepless
from subsetopt.training.checks.assessment import assess
from subsetopt.training.checks.non_finite import non_finite_notes
from subsetopt.training.context import PreparedRun, RunContext
from subsetopt.training.position import Position, Snapshot
from subsetopt.training.progress import Progress
from subsetopt.training.run_directory import BEST, ENVIRONMENT, MODEL, RunDirectory
from subsetopt.training.run_model import training_loss
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData
from subsetopt.version import own_version

Measured = dict[str, dict[str, float]]


def assemble_result(prepared: PreparedRun, position: Position, splits: Sequence[SplitName]) -> RunDocument:
    """Assemble result.json; this is where the test split is read, once, after all training."""
    data, budget, run = prepared
    snapshots = position.snapshots
    solve = next((s for s in reversed(snapshots) if s.record["role"] == "solve"), None)
    handoff = next((s for s in reversed(snapshots) if s.record["role"] == "handoff"), None)
    config, dataset, ledger = run.config, data.dataset, budget.ledger
    if not any(snapshot.record["data"] == "subset" for snapshot in snapshots):
        splits = [split for split in splits if split is not SplitName.SUBSET]  # drawn, but nothing was trained on it
    metrics = _metrics(data, run, snapshots[-1], splits)
    before = None if solve is None or handoff is None else _metrics(data, run, solve, splits)
    assessment = Assessment.model_validate(assess(data, run, snapshots[-1], solve, metrics, before))
    records = [snapshot.record for snapshot in snapshots]
    warnings = [*assessment.alarms, *run.warnings, *stepless(records), *no_better(records)]
    return RunDocument(
        version=own_version(),
        status="done",
        seed=config.seed,
        dataset=_dataset(data, run.model.flat.input_name),
        normalization=_scalings(dataset.normalization),
        target_normalization=_scaling(dataset.target_normalization),
        model=Model(name=config.model, args=config.model_args, parameters=run.model.flat.size),
        **_own_loss(run),
        overdetermination=_ratio(data, run.model.flat.size),
        phases=[PhaseEntry.model_validate(snapshot.record) for snapshot in snapshots],
        solve=None if solve is None else SolveEntry.model_validate({"solver": solve.record["method"], **solve.record}),
        handoff=None if handoff is None else PhaseEntry.model_validate(handoff.record),
        metrics=_written(metrics),
        objective=_objective(run.model.l2, snapshots[-1], metrics),
        metrics_before_handoff=None if before is None else _written(before),
        assessment=assessment,
        models=Models(last=MODEL, best=None if assessment.better is None else BEST),
        cost=Cost(
            epoch_equivalents=ledger.cost,
            evaluation_epoch_equivalents=ledger.evaluation_cost,
            seconds=position.seconds,
            by_purpose={name: Purpose.model_validate(row) for name, row in ledger.by_purpose().items()},
            prices=dict(sorted(ledger.prices.items())),
        ),
        warnings=warnings,
    )


def _own_loss(run: RunContext) -> dict[str, Any]:
    """Return the entry of a loss that was given as an object; others have none, as before."""
    kind = run.model.loss
    if isinstance(kind, str):
        return {}
    name = without_weights(kind).name.partition("(")[0]
    return {"loss": OwnLoss(name=name.split(":")[0][:200], calls_model=run.model.flat.is_called_by_loss)}


def _dataset(data: TrainingData, input_name: str | None) -> DatasetEntry:
    dataset = data.dataset
    given = data.given
    # Only what a table or a dict has is an entry: other runs have none, as before.
    own: dict[str, Any] = {} if dataset.encoding is None else {"encoding": table_entry(dataset.encoding)}
    own |= {} if input_name is None else {"input_name": input_name}
    return DatasetEntry(
        name=dataset.name,
        task=dataset.task,
        in_shape=_shape(dataset.in_shape),
        columns=list(dataset.columns) or None,
        n_outputs=dataset.n_outputs,
        train=len(dataset.train),
        validation=len(dataset.validation) if dataset.validation else 0,
        test=len(dataset.test) if dataset.test else 0,
        class_names=list(dataset.class_names),
        embedded=data.preprocess.embedded,
        digest=dataset_digest(given),
        digests=split_digests(given),
        **own,
    )


def table_entry(encoding: TableEncoding) -> TableEntry:
    """Return the encoding of a table as documents have it."""
    return TableEntry.model_validate_json(json.dumps(encoding.document()))


def _ratio(data: TrainingData, parameters: int) -> Ratio:
    subset, full = data.overdetermination(parameters)
    return Ratio(
        samples=subset.samples,
        outputs=subset.outputs,
        parameters=subset.parameters,
        ratio=subset.ratio,
        ratio_full=full.ratio,
        drawn=len(data.subset),
        augment_copies=data.copies,
        verdict=verdict(subset, full, task=data.dataset.task),
    )


def _shape(shape: Any) -> list[int] | dict[str, list[int]]:
    return {key: list(own) for key, own in shape.items()} if isinstance(shape, dict) else list(shape)


def _scalings(by: Normalization | dict[str, Normalization] | None) -> Scaling | dict[str, Scaling] | None:
    """Return the statistics of one input, or of several by name."""
    if not isinstance(by, dict):
        return _scaling(by)
    return {key: Scaling(mean=list(own.mean), std=list(own.std)) for key, own in by.items()}


def _scaling(normalization: Normalization | None) -> Scaling | None:
    return None if normalization is None else Scaling(mean=list(normalization.mean), std=list(normalization.std))


def _metrics(data: TrainingData, run: RunContext, snapshot: Snapshot, splits: Sequence[SplitName]) -> Measured:
    run.model.flat.load_buffers(snapshot.buffers)
    found = {split.value: run.model.evaluate(data, snapshot.w, split) for split in splits}
    metrics = {name: measured for name, measured in found.items() if measured is not None}
    run.warnings += [note for note in non_finite_notes(data, run.model.flat, metrics) if note not in run.warnings]
    return metrics


def _objective(l2: float, snapshot: Snapshot, metrics: Measured) -> float | None:
    """Return the loss on all training data with the run's L2 penalty; None where they were not measured."""
    if "train" not in metrics:
        return None
    return training_loss(metrics["train"]) + 0.5 * l2 * float(snapshot.w.double().square().sum())


def _written(metrics: Measured) -> Metrics:
    return {split: {**figures} for split, figures in metrics.items()}


def environment(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    return {
        "subsetopt": own_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "ranks": ranks.size,
        "command": sys.argv,
    }


def version_of(directory: RunDirectory) -> str:
    """Return the version of this package that wrote a run, as far as it is known."""
    try:
        return str(directory.read_json(ENVIRONMENT, unchanged=False).get("subsetopt", "unknown"))
    except RunDirectoryError:
        return "unknown"


def warn_of_other_environment(directory: RunDirectory, device: torch.device, ranks: Ranks, progress: Progress) -> None:
    """Resuming is bit-identical only under the same software, device and number of threads; where that is not known,
    the present environment is recorded.
    """
    now = environment(device, ranks)
    try:
        before = {"ranks": 1, **directory.read_json(ENVIRONMENT, unchanged=False)}
    except RunDirectoryError:
        directory.write_json(ENVIRONMENT, now)
        progress.warn(f"{ENVIRONMENT} is missing or damaged: rounding may differ from one long run")
        return
    keys = ("subsetopt", "torch", "machine", "threads", "device", "device_name", "ranks")
    changed = [f"{key} {before.get(key)} -> {now[key]}" for key in keys if before.get(key) != now[key]]
    if changed:
        progress.warn(f"resumed under other conditions ({', '.join(changed)}): rounding may differ from one long run")
