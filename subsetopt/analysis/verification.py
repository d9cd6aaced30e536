"""Is what a run found a minimum? Gradient, extreme eigenvalues with bounds, and effective dimension, at one point.

Scaling the loss by a constant changes no verdict. The gradient is compared with the loss's own scale S of
`loss_scale.py`, that of the run's own gradient test, and counts as zero when max|g| <= gtol S; for cross-entropy S is
about ln(classes). Eigenvalues are compared with their bounds, which include the rounding errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subsetopt.analysis.finished_phase import open_phase
from subsetopt.analysis.lanczos import FAILURE_PROBABILITY, Bounded
from subsetopt.analysis.spectrum import Spectrum, find_spectrum
from subsetopt.documents.analysis import (
    AnalysisCost,
    BoundedEntry,
    DimensionEntry,
    GradientEntry,
    HessianEntry,
    VerificationDocument,
)
from subsetopt.documents.run import purposes
from subsetopt.errors import RunDirectoryError, SettingError
from subsetopt.objective import FlatModel, Objective, SmoothObjective
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.training.ledger import Ledger
from subsetopt.training.loss_scale import loss_scale
from subsetopt.training.settings.phase import PhaseConfig

Verdict = Literal["minimum", "saddle", "not stationary", "undecided"]

LOSS_TOLERANCE = 1e-3
"""A phase's recorded loss and the recomputed one agree this well, relatively, unless the data are not the same."""


@dataclass(frozen=True)
class Certificate:
    """What is known of f at w. `gradient_max` is max|g|, `gradient_l2` is ||g||, `loss_scale` is S."""

    loss: float
    gradient_max: float
    gradient_l2: float
    loss_scale: float
    gtol: float
    spectrum: Spectrum

    @property
    def stationary(self) -> bool:
        """max|g| <= gtol S."""
        return self.gradient_max <= self.gtol * self.loss_scale

    @property
    def verdict(self) -> Verdict:
        """`saddle` means negative curvature at a stationary point (a maximum included); `undecided`, that the bounds
        on the smallest eigenvalue enclose zero.
        """
        if not self.stationary:
            return "not stationary"
        smallest = self.spectrum.smallest
        if smallest.lower > 0:
            return "minimum"
        return "saddle" if smallest.upper < 0 else "undecided"

    @property
    def distance(self) -> float | None:
        """||g|| / lambda_min, a bound on ||w - w*|| where f is quadratic up to its minimum w*; None if not convex."""
        lowest = self.spectrum.smallest.lower
        return self.gradient_l2 / lowest if lowest > 0 else None


def certify(
    objective: SmoothObjective, w: Tensor, *, gtol: float = 4e-6, scale: float | None = None, **settings: Any
) -> Certificate:
    """Examine `objective` at `w` (P,), in their dtype: float64 tells eigenvalues from zero that float32 cannot.

    `scale` is S, by default that of `loss_scale` at w0 = `objective.initial()`. `settings` are those of
    `find_spectrum`. Raises `SettingError`, and `FloatingPointError` where the loss has no
    finite derivatives. Costs one gradient, another for an S that is not given, and the products.
    """
    if not gtol > 0:
        raise SettingError("gtol", gtol, "must be above 0", "try 1e-5")
    loss, gradient = objective.value_and_gradient(w, "evaluation")
    if scale is None:
        start, first = objective.value_and_gradient(objective.initial(), "evaluation")
        scale = loss_scale(float(start), float(first.abs().max()), float(loss))
    return Certificate(
        loss=float(loss),
        gradient_max=float(gradient.abs().max()),
        gradient_l2=float(torch.linalg.vector_norm(gradient, dtype=accumulation_dtype(gradient.device))),
        loss_scale=scale,
        gtol=gtol,
        spectrum=find_spectrum(objective.linearise(w).hvp, w, **settings),
    )


def verify_run(
    path: str | Path,
    *,
    on: Literal["subset", "full"] | None = None,
    gtol: float | None = None,
    damping: float | None = None,
    probes: int = 8,
    max_products: int = 300,
    dtype: Literal["float32", "float64"] = "float64",
    data_dir: Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    dataset: object = None,
    tell: Callable[[int], None] = lambda _: None,
) -> VerificationDocument:
    """Tell whether a phase of a run ended in a minimum of the function that it minimised.

    Examined are the parameters which that phase handed on: by default the last solve; with `on`, the last solve on
    the subset or the full set, else the last phase there. Not those of the hand-off, unless that is asked for. A
    phase must be finished, the run need not be. `gtol` is by default the phase's own, `damping` (lambda of the
    effective dimension) the L2 strength; without either there is no effective dimension. Computes in `dtype` whatever
    the run's, with a fresh ledger. Deterministic. Raises `UserError` for whatever cannot be verified.
    """
    began = time.perf_counter()
    found = open_phase(path, on=on, dtype=dtype, data_dir=data_dir, device=device, model=model, dataset=dataset)
    data, run, phase, objective, record, w = found.data, found.run, found.phase, found.objective, found.record, found.w
    l2, test = run.model.l2, record.get("gradient_test") or {"gtol": phase.gtol, "loss_scale": None}
    damping = l2 or None if damping is None else damping
    try:
        certificate = certify(
            objective,
            w,
            gtol=test["gtol"] if gtol is None else gtol,
            scale=test["loss_scale"],
            damping=damping,
            shift=l2,
            probes=probes,
            max_products=max_products,
            seed=run.config.seed,
            tell=tell,
        )
    except FloatingPointError as error:
        raise RunDirectoryError(
            f"run = {str(path)!r}: {error} after phase {found.index + 1}; there is nothing to verify, train anew"
        ) from None
    return VerificationDocument(
        verdict=certificate.verdict,
        phase=found.described,
        dtype=dtype,
        **_figures(certificate, data.dataset.n_outputs, l2, objective, damping),
        notes=_notes(certificate, run.model.flat, objective, found.trained_in, phase, record),
        cost=analysis_cost(found.budget.ledger, began),
    )


def _figures(
    certificate: Certificate, outputs: int, l2: float, objective: Objective, damping: float | None
) -> dict[str, Any]:
    """Return the numbers of the certificate, named and nested as the JSON document has them."""
    spectrum = certificate.spectrum
    equations, size = objective.n_samples * outputs, objective.size
    estimate = spectrum.effective_dimension
    dimension = None
    if estimate is not None and damping is not None:
        dimension = DimensionEntry(damping=damping, **asdict(estimate))
    return {
        "samples": objective.n_samples,
        "outputs": outputs,
        "parameters": size,
        "loss": certificate.loss,
        "l2": l2,
        "gradient": GradientEntry(
            max=certificate.gradient_max,
            l2_norm=certificate.gradient_l2,
            loss_scale=certificate.loss_scale,
            gtol=certificate.gtol,
            stationary=certificate.stationary,
        ),
        "hessian": HessianEntry(
            smallest=_bounded(spectrum.smallest),
            largest=_bounded(spectrum.largest),
            smallest_without_l2=spectrum.smallest.value - l2,
            condition=None if spectrum.condition is None else _bounded(spectrum.condition),
            exact=spectrum.exact,
            failure_probability=0.0 if spectrum.exact else FAILURE_PROBABILITY,
            products=spectrum.products,
        ),
        "distance": certificate.distance,
        "ratio": equations / size,
        "effective_dimension": dimension,
        "effective_ratio": None if estimate is None or estimate.value == 0 else equations / estimate.value,
    }


def analysis_cost(ledger: Ledger, began: float) -> AnalysisCost:
    """Return what was charged to a fresh `ledger` since `began`, in seconds of `time.perf_counter`."""
    return AnalysisCost(
        epoch_equivalents=ledger.cost + ledger.evaluation_cost,
        by_purpose=purposes(ledger.by_purpose()),
        prices=ledger.prices,
        seconds=time.perf_counter() - began,
    )


def _bounded(number: Bounded) -> BoundedEntry:
    return BoundedEntry(**asdict(number))


def _notes(
    certificate: Certificate,
    flat: FlatModel,
    objective: Objective,
    trained_in: str,
    phase: PhaseConfig,
    record: Mapping[str, Any],
) -> list[str]:
    notes = []
    if certificate.verdict == "undecided":
        notes.append(
            "the bounds on the smallest eigenvalue enclose 0: allow more products, or use a larger L2 strength"
        )
    if certificate.verdict == "saddle":
        notes.append("negative curvature is a way down: `subsetopt train --init-from RUN --solver newton-cg` takes it")
    if trained_in != str(flat.dtype).removeprefix("torch."):
        notes.append(f"the run computed in {trained_in}")
    if phase.first_order or phase.streaming:
        notes.append(f"{phase.method} saw mini-batches; verified is the full-batch loss with l2 = {objective.l2:g}")
    elif record["loss"] is not None and (
        abs(record["loss"] - certificate.loss) > LOSS_TOLERANCE * certificate.loss_scale
    ):
        notes.append(
            f"the phase recorded a loss of {record['loss']:.6g}, here it is {certificate.loss:.6g}: other data?"
        )
    notes += [f"hvp by central differences ({why})" for why in objective.by_differences.values()]
    return notes
