"""What calls of a run's model cost: calibrated on a few samples, and known from then on for models of this package."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from subsetopt.data import Dataset, Preprocess
from subsetopt.models import MODELS
from subsetopt.objective import FlatModel, Loss, Prices, Residuals, calibrated_prices
from subsetopt.objective.weighting import without_weights
from subsetopt.training.settings.run import RunConfig

PRICE_SAMPLES = 8

_KNOWN_PRICES: dict[str, Prices] = {}
"""Prices of the package's own models, whose operations depend on shapes alone: the cells of a study share them."""


def prices_of(
    config: RunConfig, flat: FlatModel, dataset: Dataset, loss: str | Loss, preprocess: Preprocess, built_here: bool
) -> Prices:
    """Return what calls of the model of a run cost; with `built_here` it is the one that `config` names."""
    device, known_by = flat.device, None
    if built_here and isinstance(loss, str):
        known_by = _price_key(config, dataset, loss, preprocess.embedded, device)
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
