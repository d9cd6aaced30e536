"""What a finished run says of itself: result.json, and the environment that it ran in."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch

from subsetopt.data import Normalization
from subsetopt.data.digest import dataset_digest, split_digests
from subsetopt.documents.run import (
    Assessment,
    Cost,
    DatasetEntry,
    Metrics,
    Model,
    Models,
    PhaseEntry,
    Purpose,
    Ratio,
    RunDocument,
    Scaling,
    SolveEntry,
)
from subsetopt.errors import RunDirectoryError
from subsetopt.training.checks.affordable import stepless
from subsetopt.training.checks.assessment import assess
from subsetopt.training.checks.non_finite import non_finite_notes
from subsetopt.training.position import Position, Snapshot
from subsetopt.training.progress import Progress
from subsetopt.training.run_directory import BEST, ENVIRONMENT, MODEL, RunDirectory
from subsetopt.training.workspace import Workspace, training_loss
from subsetopt.version import own_version

Measured = dict[str, dict[str, float]]


def assemble_result(workspace: Workspace, position: Position, splits: Sequence[str]) -> RunDocument:
    """Assemble result.json; this is where the test split is read, once, after all training."""
    snapshots = position.snapshots
    solve = next((s for s in reversed(snapshots) if s.record["role"] == "solve"), None)
    handoff = next((s for s in reversed(snapshots) if s.record["role"] == "handoff"), None)
    config, dataset, ledger = workspace.config, workspace.dataset, workspace.ledger
    if not any(snapshot.record["data"] == "subset" for snapshot in snapshots):
        splits = [split for split in splits if split != "subset"]  # drawn, but nothing was trained on it
    metrics = _metrics(workspace, snapshots[-1], splits)
    before = None if solve is None or handoff is None else _metrics(workspace, solve, splits)
    assessment = Assessment.model_validate(assess(workspace, snapshots[-1], solve, metrics, before))
    warnings = [*assessment.alarms, *workspace.warnings, *stepless(snapshot.record for snapshot in snapshots)]
    return RunDocument(
        version=own_version(),
        status="done",
        seed=config.seed,
        dataset=_data(workspace),
        normalization=_scaling(dataset.normalization),
        target_normalization=_scaling(dataset.target_normalization),
        model=Model(name=config.model, args=config.model_args, parameters=workspace.flat.size),
        overdetermination=Ratio(**workspace.describe_overdetermination()),
        phases=[PhaseEntry.model_validate(snapshot.record) for snapshot in snapshots],
        solve=None if solve is None else SolveEntry.model_validate({"solver": solve.record["method"], **solve.record}),
        handoff=None if handoff is None else PhaseEntry.model_validate(handoff.record),
        metrics=_written(metrics),
        objective=_objective(workspace, snapshots[-1], metrics),
        metrics_before_handoff=None if before is None else _written(before),
        assessment=assessment,
        models=Models(last=MODEL, best=None if assessment.better is None else BEST),
        cost=Cost(
            epoch_equivalents=ledger.cost,
            evaluation_epoch_equivalents=ledger.evaluation_cost,
            seconds=position.seconds,
            by_purpose={name: Purpose.model_validate(row) for name, row in ledger.by_purpose().items()},
            prices=ledger.prices,
        ),
        warnings=warnings,
    )


def _data(workspace: Workspace) -> DatasetEntry:
    dataset = workspace.dataset
    given = dataset if workspace.given is None else workspace.given
    return DatasetEntry(
        name=dataset.name,
        task=dataset.task,
        in_shape=list(dataset.in_shape),
        n_outputs=dataset.n_outputs,
        train=len(dataset.train),
        validation=len(dataset.validation) if dataset.validation else 0,
        test=len(dataset.test) if dataset.test else 0,
        class_names=list(dataset.class_names),
        embedded=workspace.embedded,
        digest=dataset_digest(given),
        digests=split_digests(given),
    )


def _scaling(normalization: Normalization | None) -> Scaling | None:
    return None if normalization is None else Scaling(mean=list(normalization.mean), std=list(normalization.std))


def _metrics(workspace: Workspace, snapshot: Snapshot, splits: Sequence[str]) -> Measured:
    workspace.flat.load_buffers(snapshot.buffers)
    found = {name: workspace.evaluate(snapshot.w, name) for name in splits}
    metrics = {name: measured for name, measured in found.items() if measured is not None}
    workspace.warnings += [note for note in non_finite_notes(workspace, metrics) if note not in workspace.warnings]
    return metrics


def _objective(workspace: Workspace, snapshot: Snapshot, metrics: Measured) -> float | None:
    """Return the loss on all training data with the run's L2 penalty; None where they were not measured."""
    if "train" not in metrics:
        return None
    return training_loss(metrics["train"]) + 0.5 * workspace.config.l2 * float(snapshot.w.double().square().sum())


def _written(metrics: Measured) -> Metrics:
    return {split: {**figures} for split, figures in metrics.items()}


def environment(workspace: Workspace) -> dict[str, Any]:
    return {
        "subsetopt": own_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(workspace.device),
        "device_name": torch.cuda.get_device_name(workspace.device) if workspace.device.type == "cuda" else None,
        "ranks": workspace.ranks.size,
        "command": sys.argv,
    }


def version_of(directory: RunDirectory) -> str:
    """Return the version of this package that wrote a run, as far as it is known."""
    try:
        return str(directory.read_json(ENVIRONMENT, unchanged=False).get("subsetopt", "unknown"))
    except RunDirectoryError:
        return "unknown"


def warn_of_other_environment(directory: RunDirectory, workspace: Workspace, progress: Progress) -> None:
    """Resuming is bit-identical only under the same software, device and number of threads; where that is not known,
    the present environment is recorded.
    """
    now = environment(workspace)
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
