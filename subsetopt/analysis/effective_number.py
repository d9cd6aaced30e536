"""Two effective numbers of parameters at a minimum: tr(H^-1 C), and the number that leave-one-out losses tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from subsetopt.analysis.dense_gauss_newton import affordable, factorised, trace_by_factor
from subsetopt.analysis.effective_trace import NotPositiveDefinite, effective_trace
from subsetopt.analysis.finished_phase import FinishedPhase
from subsetopt.analysis.leave_one_out import leave_one_out_parameters
from subsetopt.analysis.sample_gradients import SampleGradients
from subsetopt.analysis.spectrum import TraceEstimate
from subsetopt.errors import SettingError
from subsetopt.objective import Objective


def effective_parameters(
    objective: Objective, w: Tensor, *, probes: int = 4, max_products: int = 200, seed: int = 0
) -> TraceEstimate | None:
    """Return tr(H^-1 C) at a minimum w of `objective`, None where H is not positive definite there.

    H is the Hessian with L2, or the Gauss-Newton matrix; C the covariance of the samples' gradients.
    """
    gradients, products = SampleGradients(objective, w), objective.linearise(w)
    one = torch.zeros(objective.n_samples, dtype=torch.int64, device="cpu")
    factor = factor_of(objective, w)
    control = None if factor is None else trace_by_factor(objective, w, factor, one)
    settings: dict[str, Any] = {"probes": probes, "max_products": max_products, "seed": seed}
    for product in (products.hvp, products.ggnvp):
        try:
            return effective_trace(product, gradients, one, factor=factor, control=control, **settings)
        except NotPositiveDefinite:
            continue
    return None


def factor_of(objective: Objective, w: Tensor) -> Tensor | None:
    """Return the Cholesky factor of the Gauss-Newton matrix where it is to be had at a bearable price."""
    if not affordable(objective):
        return None
    try:
        return factorised(objective, w)
    except (RuntimeError, FloatingPointError):  # no per-sample Jacobians, or flat directions: iterations then tell
        return None


def traces(
    found: FinishedPhase,
    factor: Tensor | None,
    probes: int,
    max_products: int,
    tell: Callable[[], None],
    notes: list[str],
) -> tuple[TraceEstimate, TraceEstimate, str]:
    """Return tr(H^-1 C), the same with the covariance of the run's way of drawing, and which matrix stood for H.

    A stratified draw has the class shares of the full set, so that only the spread within classes moves its minimum.
    """
    gradients = SampleGradients(found.objective, found.w)
    products = found.objective.linearise(found.w)
    one = torch.zeros(found.objective.n_samples, dtype=torch.int64, device="cpu")
    strata = [one, gradients.targets] if stratified(found) else [one]
    controls = [
        None if factor is None else trace_by_factor(found.objective, found.w, factor, groups) for groups in strata
    ]
    estimate = partial(
        effective_trace,
        gradients=gradients,
        factor=factor,
        probes=probes,
        max_products=max_products,
        seed=found.run.config.seed,
        tell=tell,
    )
    for name, product in (("hessian", products.hvp), ("gauss-newton", products.ggnvp)):
        try:
            found_traces = [
                estimate(product, groups=groups, control=control)
                for groups, control in zip(strata, controls, strict=True)
            ]
        except NotPositiveDefinite:
            notes.append(f"the {name} matrix is not positive definite here")
        else:
            return found_traces[0], found_traces[-1], name
    raise SettingError("l2", found.objective.l2, "nothing holds the flat directions", "train with L2, for example 1e-3")


def scaled(estimate: TraceEstimate, factor: float) -> TraceEstimate:
    """Return the estimate times `factor`, what strata take off the trace: leaving out single samples knows of none."""
    return TraceEstimate(estimate.value * factor, estimate.error * factor, estimate.probes)


def left_out_parameters(
    found: FinishedPhase,
    factor: Tensor | None,
    rows: int,
    max_products: int,
    tell: Callable[[], None],
    notes: list[str],
) -> TraceEstimate | None:
    """Return the number of parameters that leaving out `rows` samples tells; None, with a note, where it tells none."""
    if rows == 0:
        return None
    if found.run.model.flat.batch_dependent:
        notes.append("no leave-one-out: with BatchNorm the loss of a sample depends on the others")
        return None
    product = found.objective.linearise(found.w).ggnvp
    settings = {"rows": rows, "max_products": max_products, "seed": found.run.config.seed}
    try:
        return leave_one_out_parameters(found.objective, found.w, product, factor=factor, tell=tell, **settings)
    except (RuntimeError, FloatingPointError) as error:
        notes.append(f"no leave-one-out: {str(error).splitlines()[0][:160]}")
        return None


def stratified(found: FinishedPhase) -> bool:
    """Return whether the run drew its subset by strata."""
    return found.data.strata is not None
