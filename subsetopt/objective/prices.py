"""What each kind of model call costs, in units of one gradient (forward and backward) of the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from subsetopt.inputs import Inputs
from subsetopt.objective.chunks import Preprocess
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.flops import count_flops
from subsetopt.objective.losses import Loss, LossFunction
from subsetopt.objective.objective import Objective
from subsetopt.objective.protocol import CallKind

FALLBACK_PRICES: dict[CallKind, float] = {
    "forward": 1 / 3,
    "gradient": 1.0,
    "linearise": 1.0,
    "hvp": 2.0,
    "ggnvp": 4 / 3,
    "flops": 0.0,
}
"""Prices of an inner dense layer (1 matrix product forward, 3 for a gradient, 6 for a Hessian and 4 for a Gauss-Newton
product on stored graphs), for models in which torch can count no operation: beside those a method's own operations have
no price, and seconds alone show them."""


class Prices(dict[str, float]):
    """Prices by kind of call; kinds that are missing come from `counted`, which is called when one is asked for.

    Products are dear to count, and most runs make none.
    """

    def __init__(self, known: Mapping[str, float], counted: Callable[[], Mapping[str, float]] | None = None) -> None:
        super().__init__(known)
        self._counted = counted

    def __missing__(self, kind: str) -> float:
        if self._counted is None:
            raise KeyError(kind)
        for name, price in self._counted().items():
            self.setdefault(name, price)
        self._counted = None
        return self[kind]

    def changed(self, known: Mapping[str, float]) -> Prices:
        """Return prices with other known ones, and the same way to count those that are missing."""
        return Prices(known, self._counted)


def calibrate_prices(
    model: Objective | FlatModel,
    inputs: Inputs,
    targets: Tensor,
    loss: str | LossFunction | Loss = "cross_entropy",
    preprocess: Preprocess | None = None,
) -> dict[str, float]:
    """Return the price of each kind of call per sample, counted on the samples given (see `flops.py`).

    "linearise" is the dearer of recording for Hessian and for Gauss-Newton products, the others are as called with
    stored graphs; "flops" is the price of one operation of a method's own. For an `Objective` its own loss and
    preprocess hold. Nothing is charged. A kind that has no countable operation falls back to `FALLBACK_PRICES`.
    """
    prices = calibrated_prices(model, inputs, targets, loss, preprocess)
    return {kind: prices[kind] for kind in FALLBACK_PRICES}


def calibrated_prices(
    model: Objective | FlatModel,
    inputs: Inputs,
    targets: Tensor,
    loss: str | LossFunction | Loss = "cross_entropy",
    preprocess: Preprocess | None = None,
) -> Prices:
    """Return what `calibrate_prices` does, but count curvature products when their price is first asked for."""
    if isinstance(model, Objective):
        flat, loss, preprocess = model.flat, model.loss, model.preprocess
    else:
        flat = model
    samples = len(inputs)
    sample = Objective(
        flat, inputs, targets, loss, chunk_size=samples, preprocess=preprocess, check_deterministic=False
    )
    w = sample.initial()
    unit = count_flops(lambda: sample.value_and_gradient(w))
    if unit == 0:
        return Prices(dict[str, float](FALLBACK_PRICES.items()))
    forward = count_flops(lambda: sample.value(w)) / unit or FALLBACK_PRICES["forward"]
    known = {"forward": forward, "gradient": 1.0, "flops": samples / unit}
    return Prices(known, cache(partial(_product_prices, sample, unit)))


def _product_prices(sample: Objective, unit: int) -> dict[str, Any]:
    """Return the prices of curvature products on `sample`, a gradient of which is `unit` operations."""
    w = sample.initial()
    v = torch.ones_like(w)
    products = sample.linearise(w)
    products.record("hvp")
    products.record("ggnvp")
    counts: dict[CallKind, int] = {
        "hvp": count_flops(lambda: products.hvp(v)),
        "ggnvp": count_flops(lambda: products.ggnvp(v)),
    }
    # A second linearisation, because the very first one also measures the size of its graph.
    again = sample.linearise(w)
    counts["linearise"] = max(count_flops(partial(again.record, kind)) for kind in ("hvp", "ggnvp"))
    counted = {kind: count / unit for kind, count in counts.items() if count and not sample.by_differences}
    return {kind: counted.get(kind, FALLBACK_PRICES[kind]) for kind in counts}
