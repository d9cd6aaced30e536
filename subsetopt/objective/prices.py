"""What each kind of model call costs, in units of one gradient (forward and backward) of the same samples."""

from __future__ import annotations

from functools import partial

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
    if isinstance(model, Objective):
        flat, loss, preprocess = model.flat, model.loss, model.preprocess
    else:
        flat = model
    samples = len(inputs)
    sample = Objective(
        flat, inputs, targets, loss, chunk_size=samples, preprocess=preprocess, check_deterministic=False
    )
    w = sample.initial()
    v = torch.ones_like(w)
    products = sample.linearise(w)
    counts: dict[CallKind, int] = {
        "forward": count_flops(lambda: sample.value(w)),
        "gradient": count_flops(lambda: sample.value_and_gradient(w)),
    }
    products.record("hvp")
    products.record("ggnvp")
    counts["hvp"] = count_flops(lambda: products.hvp(v))
    counts["ggnvp"] = count_flops(lambda: products.ggnvp(v))
    # A second linearisation, because the very first one also measures the size of its graph.
    again = sample.linearise(w)
    recording = [count_flops(partial(again.record, "hvp")), count_flops(partial(again.record, "ggnvp"))]
    counts["linearise"] = max(recording)
    unit = counts["gradient"]
    if unit == 0:
        return dict[str, float](FALLBACK_PRICES.items())
    found: dict[str, float] = dict(FALLBACK_PRICES.items())
    if not sample.by_differences:
        found |= {kind: count / unit for kind, count in counts.items() if count}
    return found | {"flops": samples / unit}
