"""A phase of a finished run, with its objective as it was, to measure at the parameters that it found."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subsetopt.documents.analysis import AnalysedPhase
from subsetopt.errors import ModelError, RunDirectoryError, SettingError, setting, typed
from subsetopt.objective import Objective
from subsetopt.saving import under
from subsetopt.training.budget import Budget
from subsetopt.training.checks.identity import OtherRunError, check_identity, check_outputs
from subsetopt.training.context import RunContext
from subsetopt.training.preparation import prepare
from subsetopt.training.run_directory import CHECKPOINT, RunDirectory
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.stored_settings import load_config
from subsetopt.training.training_data import TrainingData


@dataclass(frozen=True)
class FinishedPhase:
    """A finished phase of a run, at whose parameters `w` something is to be measured; `trained_in` is the run's dtype.

    `records` are those of all finished phases, `parameters` what each of them handed on; the model holds the buffers
    of this one.
    """

    data: TrainingData
    budget: Budget
    run: RunContext
    index: int
    records: Sequence[Mapping[str, Any]]
    parameters: Sequence[Tensor]
    objective: Objective
    trained_in: str

    @property
    def record(self) -> Mapping[str, Any]:
        return self.records[self.index]

    @property
    def w(self) -> Tensor:
        return self.parameters[self.index]

    @property
    def phase(self) -> PhaseConfig:
        return self.run.config.phases()[self.index]

    @property
    def described(self) -> AnalysedPhase:
        """What a JSON document says of the phase."""
        record = self.record
        return AnalysedPhase(
            index=self.index,
            role=record["role"],
            method=record["method"],
            data=record["data"],
            stop_reason=record["stop_reason"],
        )


def open_phase(
    path: str | Path,
    *,
    on: Literal["subset", "full"] | None,
    dtype: Literal["float32", "float64"],
    data_dir: Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    dataset: object = None,
) -> FinishedPhase:
    """Return the last solve (with `on`, the last one there, else the last phase there), in `dtype`, on a fresh ledger.

    Raises `UserError` where there is none, or the data are not those of the run.
    """
    directory = RunDirectory.open(Path(path))
    overrides = {"data_dir": data_dir, "device": device}
    stored = load_config(directory, model, dataset, {k: v for k, v in overrides.items() if v is not None})
    # No budget ends a measurement, and where the run once started may be gone.
    fresh = {"dtype": dtype, "max_epochs": None, "init_from": None}
    model = None if model is None else copy.deepcopy(model).to(getattr(torch, dtype))
    data, budget, run = prepare(stored.model_copy(update=fresh), model, dataset)
    index, records, parameters = _load_phase(directory, data, run, on)
    record = records[index]
    run.model.recall_l2(records)
    phase = run.config.phases()[index]
    data = data.for_phase(phase)
    objective = run.model.objective(data, SplitName.trained_on(record["data"]), track_noise=phase.stop_at == "noise")
    if objective.n_samples != record["samples"]:
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: phase {index + 1} trained on {record['samples']} samples, "
            f"the data give {objective.n_samples} now; restore the data, or train anew"
        )
    return FinishedPhase(data, budget, run, index, records, parameters, objective, stored.dtype)


def _check(
    directory: RunDirectory,
    data: TrainingData,
    run: RunContext,
    checkpoint: tuple[Mapping[str, Tensor], Mapping[str, Any]],
) -> None:
    """Raise `RunDirectoryError` where the checkpoint was not made with these settings, data and model."""
    tensors, state = checkpoint
    try:
        check_identity(state, data, run, changed=("dtype", "max_epochs"))
        run.model.flat.load_buffers(under("buffer/", tensors))
        check_outputs(state, data, run.model.flat, tensors["w"])
    except (OtherRunError, ModelError, KeyError) as error:
        raise RunDirectoryError(f"run = {str(directory.path)!r}: {CHECKPOINT} does not fit: {error}") from None


def _load_phase(
    directory: RunDirectory, data: TrainingData, run: RunContext, on: str | None
) -> tuple[int, Sequence[Mapping[str, Any]], list[Tensor]]:
    """Return the index of the phase meant, all records and parameters, and put its buffers into the model."""
    checkpoint = directory.load_checkpoint()
    records: Sequence[Mapping[str, Any]] = [] if checkpoint is None else checkpoint[1]["records"]
    if checkpoint is None or not records:
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: no phase is finished; `subsetopt resume {typed(directory.path)}`"
        )
    there = [index for index, record in enumerate(records) if on in (None, record["data"])]
    if not there:
        raise SettingError("on", on, "no finished phase trained on it", f"use {setting('on', records[-1]['data'])}")
    solves = [index for index in there if records[index]["role"] == "solve"]
    index = (solves or there)[-1]
    tensors, flat = checkpoint[0], run.model.flat
    _check(directory, data, run, checkpoint)
    flat.load_buffers(under(f"done/{index}/buffer/", tensors))
    parameters = [flat.check(tensors[f"done/{i}/w"].to(flat.device, flat.dtype)) for i in range(len(records))]
    return index, records, parameters
