"""From a configuration to data, budget and model: everything is built and checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.ambient import ordinary_torch
from subsetopt.data import (
    Dataset,
    Preprocess,
    draw,
    require_all_classes,
    standardised_targets,
)
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError, UserError, setting
from subsetopt.inputs import Inputs, Parts
from subsetopt.models import build_model, initialise_lazy, refuse_reserved
from subsetopt.objective import FlatModel, Loss, ModelLoss, Residuals, tuned_chunk_size
from subsetopt.objective.module_call import InPlaceOfForward
from subsetopt.overdetermination import warning
from subsetopt.training.budget import Budget, Clock
from subsetopt.training.checks.affordable import within_budget
from subsetopt.training.checks.habits import probability_note, unused_notes
from subsetopt.training.checks.inputs import fitted_inputs, handed_on_as
from subsetopt.training.checks.own_loss import as_run_data, check_own_loss, fitted_outputs, own_loss
from subsetopt.training.checks.run_data import learnt_table, standardised_as
from subsetopt.training.checks.scale_notes import scale_notes
from subsetopt.training.context import PreparedRun, RunContext
from subsetopt.training.data_of_run import data_of
from subsetopt.training.initialisation import initialised_from
from subsetopt.training.ledger import Ledger
from subsetopt.training.model_loss_data import bound, check_bound, initialise_for, raw_preprocess
from subsetopt.training.resolving import resolve_device, resolve_loss, resolve_model
from subsetopt.training.run_model import RunModel
from subsetopt.training.run_prices import prices_of
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData, strata

CHECKED_SAMPLES = 16


@ordinary_torch()
def prepare(
    config: RunConfig,
    model: nn.Module | None = None,
    dataset: object = None,
    ranks: Ranks | None = None,
    statistics: Mapping[str, Any] | None = None,
    loss: Any = None,
) -> PreparedRun:
    """Build data, budget and model of `config`; `model` and `dataset` replace the named ones, `ranks` share the work.

    `statistics` is the result.json of a run whose standardisation holds, whatever the data are now.

    Raises a `UserError` in one line for anything that would make the run fail later.
    """
    ranks = ranks or Ranks()
    device = resolve_device(config.device, config.dtype)
    task = _task_of(config, model, dataset, loss, ranks, statistics)
    subset = drawn_subset(config, task.dataset)
    config, module = _with_model(config, model, task.dataset)
    flat, fitted, preprocess = _fitted(config, module, task, device, statistics)
    given, ready, kind = fitted, standardised_targets(fitted), task.loss
    habits: list[str] = []
    if isinstance(kind, ModelLoss):
        kind, flat, ready, preprocess = bound(kind, flat, ready, preprocess, task.whole)
        check_bound(kind, flat, ready.train, preprocess)
    elif not isinstance(kind, str):
        check_own_loss(kind, flat, ready.train, preprocess, CHECKED_SAMPLES)
    origin = None if config.init_from is None else flat.initial()
    if config.init_from is not None:
        flat = initialised_from(config.init_from, flat)
    prices = prices_of(config, flat, ready, kind, preprocess, built_here=model is None)
    ledger = Ledger(len(ready.train), prices, config.max_epochs)
    data = TrainingData(
        ready, given, preprocess, device, subset, config.seed, config.stratify, copies=config.augment_copies
    )
    run_model = RunModel(
        flat,
        kind,
        config.strengths[0],
        ledger,
        ranks,
        origin,
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
    )
    if model is not None and not isinstance(task.loss, ModelLoss):
        few = preprocess(ready.train.inputs[:CHECKED_SAMPLES])
        habits = probability_note(model, flat, few, kind if isinstance(kind, str) else task.given_loss)
    run = RunContext(config, run_model, ranks, [*ready.notes, *scale_notes(given), *habits, *unused_notes(config)])
    _check_ratio(data, run)
    _settle_chunk_size(data, run)
    return PreparedRun(data, Budget(ledger, Clock(config.max_seconds)), run)


@dataclass(frozen=True)
class _Task:
    """What is to be learnt: data, and the name of a loss or one that samples have; `given_loss` is as it was given.

    `function` evaluates the model of residuals; with `whole` the samples have their targets in them.
    """

    dataset: Dataset
    loss: str | Loss
    given_loss: Any
    function: InPlaceOfForward | None
    whole: bool


def _task_of(
    config: RunConfig,
    model: nn.Module | None,
    dataset: object,
    loss: Any,
    ranks: Ranks,
    statistics: Mapping[str, Any] | None,
) -> _Task:
    function = None
    if isinstance(dataset, Residuals):
        if model is None or loss is not None:
            raise SettingError("dataset", "residuals", "they are a loss of a model", "give model, and leave loss out")
        dataset, loss, function = as_run_data(dataset, model)
    own = None if loss is None else own_loss(loss)
    whole = isinstance(own, ModelLoss) and dataset is not None and not isinstance(dataset, Dataset)
    if whole and model is None:
        raise SettingError("model", config.model, "a loss(model, batch) calls a module of yours", "give the module")
    data = data_of(config, dataset, ranks, whole, None if statistics is None else learnt_table(statistics))
    kind = resolve_loss(config.loss, data) if own is None else own
    if not isinstance(kind, str):
        # The loss says what its targets are: 0 and 1, counts, or a distance in their own units.
        data = replace(data, target_normalization=None)
    if isinstance(kind, ModelLoss):
        data = replace(data, task="regression")  # whether its targets are classes, the loss alone knows
    return _Task(data, kind, loss, function, whole)


def _with_model(config: RunConfig, model: nn.Module | None, dataset: Dataset) -> tuple[RunConfig, nn.Module]:
    """Return the model, built where none is given, and the settings with its name in place of `auto`."""
    coded = () if dataset.encoding is None else dataset.encoding.embedded
    if model is not None:
        if coded:
            problem = "a model that is given as an object has no embeddings of its own for them"
            raise SettingError("embed_words", config.embed_words, problem, "leave it out, or give a factory")
        return config, model
    refuse_reserved(config.model_args)
    config = config.model_copy(update={"model": resolve_model(config.model, dataset)})
    built = build_model(
        config.model,
        in_shape=dataset.in_shape,
        n_outputs=dataset.n_outputs,
        seed=config.seed,
        dtype=getattr(torch, config.dtype),
        embedded=coded,
        input_name=dataset.input_name,
        **config.model_args,
    )
    return config, built


def _fitted(
    config: RunConfig, model: nn.Module, task: _Task, device: torch.device, statistics: Mapping[str, Any] | None
) -> tuple[FlatModel, Dataset, Preprocess]:
    """Return the model as a function of its flat parameters, and data and preprocessing as it takes them."""
    dtype, dataset = getattr(torch, config.dtype), task.dataset
    called_by_loss = isinstance(task.loss, ModelLoss)
    if isinstance(task.loss, ModelLoss):
        initialise_for(task.loss, model, dataset, task.whole)
    else:
        initialise_lazy(model, dataset.in_shape, _few(dataset, dtype), dataset.input_name)
    flat = FlatModel(model, dtype=dtype, device=device)
    input_name = None if task.function is not None or called_by_loss else handed_on_as(model, dataset)
    flat = flat if input_name is None else flat.given_as(input_name)
    flat = flat if task.function is None else flat.evaluated_by(task.function)
    if task.whole:
        return flat, dataset, raw_preprocess(dataset.train.inputs, dtype)
    dataset, embedded = fitted_inputs(flat, dataset)
    preprocess = Preprocess(dataset.normalization, dtype, embedded)
    if task.function is None and not isinstance(task.loss, ModelLoss):
        few = preprocess(dataset.train.inputs[:CHECKED_SAMPLES])
        few = few if input_name is None else Parts([few], [input_name])
        dataset = fitted_outputs(model, dataset, task.loss, few)
    if statistics is not None:
        dataset = standardised_as(dataset, statistics)
        preprocess = Preprocess(dataset.normalization, dtype, embedded)
    return flat, dataset, preprocess


def _settle_chunk_size(data: TrainingData, run: RunContext) -> None:
    """Give the model the chunk size of the settings, which is found out first where it is "tune"."""
    config, model = run.config, run.model
    if config.chunk_size == "tune":
        # The number goes into the stored configuration, so that a resumed run sums in the same chunks, bit for bit.
        with within_budget(config):
            size = tuned_chunk_size(
                model.flat,
                *data.trained(SplitName.SUBSET),
                loss=model.loss,
                preprocess=data.preprocess,
                meter=model.ledger,
            )
        # From here on all ranks are known to be well: rank 0's number is everybody's.
        size = run.ranks.together(lambda: run.ranks).broadcast(size)
        run.config = config.model_copy(update={"chunk_size": size})
    model.chunk_size = None if run.config.chunk_size == "tune" else run.config.chunk_size


def drawn_subset(config: RunConfig, dataset: Dataset) -> Tensor:
    """Return the rows of the run's subset; all rows where none can be drawn, and no phase would work on it.

    Raises `UserError` where a phase would, and it is too small or has not every class.
    """
    share, classes = config.subset_share or None, strata(dataset, config.stratify)
    try:
        subset = draw(len(dataset.train), fraction=share, size=config.subset_size, seed=config.seed, stratify=classes)
        if dataset.task == "classification":
            require_all_classes(dataset.train.targets[subset], dataset.n_outputs)
    except UserError:
        if any(phase.split is SplitName.SUBSET for phase in config.phases()):
            raise
        return torch.arange(len(dataset.train), device="cpu")
    return subset


def _few(dataset: Dataset, dtype: torch.dtype) -> Inputs:
    """Return some training inputs as a model gets them."""
    few: Inputs = dataset.train.inputs[:CHECKED_SAMPLES]
    return Preprocess(dataset.normalization, dtype)(few)


def _check_ratio(data: TrainingData, run: RunContext) -> None:
    """Compare Q with what is required: of the subset, or of all training data where no phase works on a subset."""
    subset, full = data.overdetermination(run.model.flat.size)
    on_subset = any(phase.split is SplitName.SUBSET for phase in run.config.phases())
    own, what = (subset, "subset") if on_subset else (full, "training set")
    required = run.config.require_ratio
    if required is not None and own.ratio < required:
        larger = f"a larger {setting('subset_frac')}, {setting('augment_copies')} or " if on_subset else ""
        raise SettingError(
            "require_ratio",
            required,
            f"the {what} has Q = K M / P = {own.ratio:.3g} ({own.samples} samples x {own.outputs} outputs "
            f"/ {own.parameters} parameters)",
            f"use {larger}a smaller model",
        )
    text = warning(subset, task=data.dataset.task) if on_subset else None
    if text:
        run.warnings.append(text)
