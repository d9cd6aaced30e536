"""From a configuration to data, budget and model: everything is built and checked before any work starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
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
from subsetopt.errors import SettingError, setting
from subsetopt.inputs import Inputs, Parts
from subsetopt.models import MODELS, build_model, initialise_lazy, refuse_reserved
from subsetopt.objective import FlatModel, Loss, ModelLoss, Prices, Residuals, calibrated_prices, tuned_chunk_size
from subsetopt.objective.weighting import without_weights
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
from subsetopt.training.run_model import RunModel
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData, strata

PRICE_SAMPLES, CHECKED_SAMPLES = 8, 16


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
    dtype = getattr(torch, config.dtype)
    function = None
    if isinstance(dataset, Residuals):
        if model is None or loss is not None:
            raise SettingError("dataset", "residuals", "they are a loss of a model", "give model, and leave loss out")
        dataset, loss, function = as_run_data(dataset, model)
    own = None if loss is None else own_loss(loss)
    whole = isinstance(own, ModelLoss) and dataset is not None and not isinstance(dataset, Dataset)
    if whole and model is None:
        raise SettingError("model", config.model, "a loss(model, batch) calls a module of yours", "give the module")
    dataset = data_of(config, dataset, ranks, whole, None if statistics is None else learnt_table(statistics))
    kind = resolve_loss(config.loss, dataset) if own is None else own
    if not isinstance(kind, str):
        # The loss says what its targets are: 0 and 1, counts, or a distance in their own units.
        dataset = replace(dataset, target_normalization=None)
    if isinstance(kind, ModelLoss):
        dataset = replace(dataset, task="regression")  # whether its targets are classes, the loss alone knows
    subset = drawn_subset(config, dataset)
    coded = () if dataset.encoding is None else dataset.encoding.embedded
    if coded and model is not None:
        problem = "a model that is given as an object has no embeddings of its own for them"
        raise SettingError("embed_words", config.embed_words, problem, "leave it out, or give a factory")
    ours = model is None
    if model is None:
        refuse_reserved(config.model_args)
        config = config.model_copy(update={"model": resolve_model(config.model, dataset)})
        model = build_model(
            config.model,
            in_shape=dataset.in_shape,
            n_outputs=dataset.n_outputs,
            seed=config.seed,
            dtype=dtype,
            embedded=coded,
            input_name=dataset.input_name,
            **config.model_args,
        )
    if isinstance(kind, ModelLoss):
        initialise_for(kind, model, dataset, whole)
    else:
        initialise_lazy(model, dataset.in_shape, _few(dataset, dtype), dataset.input_name)
    flat = FlatModel(model, dtype=dtype, device=device)
    input_name = None if function is not None or isinstance(kind, ModelLoss) else handed_on_as(model, dataset)
    flat = flat if input_name is None else flat.given_as(input_name)
    flat = flat if function is None else flat.evaluated_by(function)
    if whole:
        preprocess = raw_preprocess(dataset.train.inputs, dtype)
    else:
        dataset, embedded = fitted_inputs(flat, dataset)
        preprocess = Preprocess(dataset.normalization, dtype, embedded)
        if function is None and not isinstance(kind, ModelLoss):
            few = preprocess(dataset.train.inputs[:CHECKED_SAMPLES])
            few = few if input_name is None else Parts([few], [input_name])
            dataset = fitted_outputs(model, dataset, kind, few)
        if statistics is not None:
            dataset = standardised_as(dataset, statistics)
            preprocess = Preprocess(dataset.normalization, dtype, embedded)
    given, dataset = dataset, standardised_targets(dataset)
    if isinstance(kind, ModelLoss):
        kind, flat, dataset, preprocess = bound(kind, flat, dataset, preprocess, whole)
        check_bound(kind, flat, dataset.train, preprocess)
    elif not isinstance(kind, str):
        check_own_loss(kind, flat, dataset.train, preprocess, CHECKED_SAMPLES)
    origin = None if config.init_from is None else flat.initial()
    if config.init_from is not None:
        flat = initialised_from(config.init_from, flat)
    known_by = None
    if ours and isinstance(kind, str):
        known_by = _price_key(config, dataset, kind, preprocess.embedded, device)
    prices = _prices(flat, dataset, kind, preprocess, device, known_by)
    ledger = Ledger(len(dataset.train), prices, config.max_epochs)
    budget = Budget(ledger, Clock(config.max_seconds))
    data = TrainingData(
        dataset, given, preprocess, device, subset, config.seed, config.stratify, copies=config.augment_copies
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
    habits: list[str] = []
    if not ours and not isinstance(kind, ModelLoss):
        few = preprocess(dataset.train.inputs[:CHECKED_SAMPLES])
        habits = probability_note(model, flat, few, kind if isinstance(kind, str) else loss)
    run = RunContext(config, run_model, ranks, [*dataset.notes, *scale_notes(given), *habits, *unused_notes(config)])
    _check_ratio(data, run)
    if config.chunk_size == "tune":
        # The number goes into the stored configuration, so that a resumed run sums in the same chunks, bit for bit.
        with within_budget(config):
            size = tuned_chunk_size(
                flat, *data.trained(SplitName.SUBSET), loss=kind, preprocess=preprocess, meter=ledger
            )
        # From here on all ranks are known to be well: rank 0's number is everybody's.
        size = ranks.together(lambda: ranks).broadcast(size)
        run.config = config.model_copy(update={"chunk_size": size})
    run_model.chunk_size = None if run.config.chunk_size == "tune" else run.config.chunk_size
    return PreparedRun(data, budget, run)


def resolve_device(name: str, dtype: str) -> torch.device:
    """Return the device to compute on; raises `SettingError` when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise SettingError(
            "device", name, "this machine has none that torch can use", f"use {setting('device', 'cpu')}"
        )
    if name == "mps" and dtype == "float64":
        raise SettingError(
            "device", name, "it has no float64", f"use {setting('dtype', 'float32')}, or {setting('device', 'cpu')}"
        )
    return torch.device(name)


def resolve_loss(name: str, dataset: Dataset) -> str:
    """Return the loss that fits the task; raises `SettingError` when the one asked for does not."""
    fitting = "cross_entropy" if dataset.task == "classification" else "mse"
    if dataset.task == "regression" and not dataset.train.targets.is_floating_point():
        shape = ", ".join(map(str, ("n", *dataset.train.targets.shape[1:])))
        raise SettingError(
            "loss",
            name,
            f"the targets are whole numbers of shape ({shape})",
            f"for quantities use {setting('task', 'regression')}; for labels of each position (tokens, pixels) or "
            "several labels give a module of torch.nn in Python: SubsetTrainer(..., loss=nn.CrossEntropyLoss())",
        )
    if name in ("auto", fitting):
        return fitting
    other = "regression" if dataset.task == "classification" else "classification"
    remedy = f"use {setting('loss', fitting)}, or {setting('task', other)} if that is what the targets mean"
    raise SettingError("loss", name, f"{dataset.name} is a {dataset.task} data set", remedy)


def resolve_model(name: str, dataset: Dataset) -> str:
    """Return the model meant by `auto`: a small CNN for images of 16 pixels or more, else an MLP."""
    if name != "auto":
        return name
    images = not isinstance(dataset.in_shape, dict) and len(dataset.in_shape) == 3 and min(dataset.in_shape[1:]) >= 16
    return "cnn" if images else "mlp"


def drawn_subset(config: RunConfig, dataset: Dataset) -> Tensor:
    """Return the rows of the run's subset; raises `UserError` where it is too small or has not every class."""
    subset = draw(
        len(dataset.train),
        fraction=config.subset_share or None,
        size=config.subset_size,
        seed=config.seed,
        stratify=strata(dataset, config.stratify),
    )
    if dataset.task == "classification":
        require_all_classes(dataset.train.targets[subset], dataset.n_outputs)
    return subset


def _few(dataset: Dataset, dtype: torch.dtype) -> Inputs:
    """Return some training inputs as a model gets them."""
    few: Inputs = dataset.train.inputs[:CHECKED_SAMPLES]
    return Preprocess(dataset.normalization, dtype)(few)


_KNOWN_PRICES: dict[str, Prices] = {}
"""Prices of the package's own models, whose operations depend on shapes alone: the cells of a study share them."""


def _price_key(config: RunConfig, dataset: Dataset, loss: str, embedded: bool, device: torch.device) -> str | None:
    """Return all that the prices of a model of this package depend on; None for another's, which may read its data."""
    inputs = dataset.train.inputs
    if not isinstance(inputs, Tensor) or config.model not in MODELS:
        return None
    if not MODELS.get(config.model).__module__.startswith("subsetopt."):
        return None
    shapes = dataset.in_shape, dataset.n_outputs, inputs.dtype, min(len(dataset.train), PRICE_SAMPLES)
    targets = dataset.train.targets.shape[1:], dataset.train.targets.dtype
    coded = () if dataset.encoding is None else dataset.encoding.embedded
    settings = config.model, sorted(config.model_args.items()), config.dtype, coded
    return repr((settings, shapes, targets, loss, embedded, device.type))


def _prices(
    flat: FlatModel,
    dataset: Dataset,
    loss: str | Loss,
    preprocess: Preprocess,
    device: torch.device,
    known_by: str | None,
) -> Prices:
    if known_by is not None and known_by in _KNOWN_PRICES:
        known = _KNOWN_PRICES[known_by]
        return known.changed(known)
    rows: slice | Tensor = slice(PRICE_SAMPLES)
    if isinstance(plainly := loss if isinstance(loss, str) else without_weights(loss), Residuals):
        rows = plainly.covering(
            dataset.train.targets, torch.arange(min(PRICE_SAMPLES, len(dataset.train)), device="cpu")
        )
    inputs = dataset.train.inputs[rows].to(device)
    targets = dataset.train.targets[rows].to(device)
    with warnings.catch_warnings():
        # What stands in for a product is said where a solver takes products, not where they are priced.
        warnings.filterwarnings("ignore", message="curvature products")
        prices = calibrated_prices(flat, inputs, targets, loss=loss, preprocess=preprocess)
    if known_by is not None:
        _KNOWN_PRICES[known_by] = prices.changed(prices)
    return prices


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
