"""Evaluate the model of a finished run on the splits of its data, or of other data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from subsetopt.ambient import ordinary_torch
from subsetopt.training.checks.identity import check_identity, check_outputs, fits
from subsetopt.training.checks.run_data import changed_data
from subsetopt.training.context import RunContext
from subsetopt.training.finishing import SPLITS
from subsetopt.training.preparation import prepare
from subsetopt.training.run_directory import (
    MODEL,
    RunDirectory,
)
from subsetopt.training.splits import SplitName
from subsetopt.training.stored_settings import load_config
from subsetopt.training.training_data import TrainingData


@ordinary_torch()
def evaluate_run(
    path: str | Path,
    *,
    data_dir: Path | None = None,
    device: str | None = None,
    splits: Sequence[str] = ("train", "validation", "test"),
    model: nn.Module | None = None,
    dataset: object = None,
    loss: Any = None,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """Return {split: {loss, accuracy | mse, r2}} of a finished run's model, computed afresh.

    `model`, `dataset` and `loss` again where they were objects. Inputs and targets are standardised as the run did.
    Data that are not those of the run are named in `notes`.
    """
    directory = RunDirectory.open(Path(path))
    result = directory.read_result()
    overrides = {"data_dir": data_dir, "device": device}
    config = load_config(directory, model, dataset, {k: v for k, v in overrides.items() if v is not None})
    # The run's own model says all; where it once started may be gone.
    data, _, run = prepare(config.model_copy(update={"init_from": None}), model, dataset, statistics=result, loss=loss)
    if notes is not None:
        notes += changed_data(result, data.given, splits)
    w = load_model(directory, data, run, other_data=bool(changed_data(result, data.given, SPLITS)))
    measured = {name: run.model.evaluate(data, w, SplitName(name)) for name in splits}
    return {name: metrics for name, metrics in measured.items() if metrics is not None}


def load_model(directory: RunDirectory, data: TrainingData, run: RunContext, other_data: bool = False) -> Tensor:
    """Put the finished run's buffers into the model and return its parameters.

    Raises `RunDirectoryError` where the file is damaged, or settings, model or (unless `other_data`) data are not those
    of the run.
    """
    tensors, state = directory.load_tensors(MODEL)
    if state is not None:
        fits(directory, MODEL, partial(check_identity, other_data=other_data), state, data, run)
    w = fits(directory, MODEL, run.model.flat.load_state_dict, tensors)
    if state is not None and not other_data:
        fits(directory, MODEL, check_outputs, state, data, run.model.flat, w)
    return w
