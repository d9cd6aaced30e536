"""How well a finished subset minimum stands for the full set: effective parameters, predicted and observed excess.

Two effective numbers of parameters are estimated at the run's solution: tr(H^-1 C), the classical one, and the number
that leave-one-out losses tell. Predictions use the latter where it could be had: the trace vanishes with the subset's
own gradients when a subset is nearly interpolated. Measured in reports/strategies/effective-ratio.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import nn

from subsetopt.analysis.effective_number import factor_of, left_out_parameters, scaled, stratified, traces
from subsetopt.analysis.excess import estimated_minimum, predicted_excess, predicted_optimism, samples_for_excess
from subsetopt.analysis.finished_phase import FinishedPhase, open_phase
from subsetopt.analysis.spectrum import TraceEstimate
from subsetopt.analysis.verification import analysis_cost
from subsetopt.documents.analysis import (
    EffectiveParametersEntry,
    EffectiveRatioDocument,
    EstimateEntry,
    FullMinimumEntry,
    LeaveOneOutEntry,
    ObservedEntry,
    PredictionEntry,
    TargetEntry,
)
from subsetopt.errors import SettingError
from subsetopt.training.run_model import training_loss
from subsetopt.training.splits import SplitName


def effective_run(
    path: str | Path,
    *,
    on: Literal["subset", "full"] | None = None,
    subset_size: int | None = None,
    subset_frac: float | None = None,
    excess: float | None = None,
    probes: int = 8,
    rows: int = 32,
    max_products: int = 300,
    data_dir: Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    dataset: object = None,
    tell: Callable[[], None] = lambda: None,
) -> EffectiveRatioDocument:
    """Return the document of `ratio --effective RUN --json`: a phase's effective ratio and what follows from it.

    The phase is that which `verify_run` examines. `subset_size` or `subset_frac`: predict the excess for a subset of
    that size, too; `excess`: the smallest subset whose excess is at most that share of the full minimum's loss. `rows`
    samples serve leave-one-out, 0 leaves it out. In float64, with a fresh ledger. Raises `UserError` in one line.
    """
    began = time.perf_counter()
    _check(subset_size, subset_frac, excess, rows)
    found = open_phase(path, on=on, dtype="float64", data_dir=data_dir, device=device, model=model, dataset=dataset)
    K, N = found.objective.n_samples, found.data.full_size
    if subset_frac is not None:
        subset_size = max(1, round(subset_frac * N))
    if subset_size is not None and subset_size > N:
        raise SettingError("subset_size", subset_size, f"there are {N} training samples", "ask for fewer")
    notes: list[str] = []
    factor = factor_of(found.objective, found.w)
    plain, trace, matrix = traces(found, factor, probes, max_products, tell, notes)
    left_out = left_out_parameters(found, factor, rows, max_products, tell, notes)
    chosen = trace if left_out is None else scaled(left_out, trace.value / plain.value if plain.value else 1.0)
    own = float(found.objective.value(found.w, "evaluation"))
    observed = _observed(found, own)
    best = observed.full_minimum or estimated_minimum(own, observed.loss_full)
    p, dimension = chosen.value, found.objective.size
    return EffectiveRatioDocument(
        phase=found.described,
        samples=K,
        samples_full=N,
        outputs=found.data.dataset.n_outputs,
        parameters=dimension,
        ratio=K * found.data.dataset.n_outputs / dimension,
        l2=found.run.model.l2,
        loss=own,
        hessian=matrix,
        trace=_estimate(plain),
        trace_within_classes=_estimate(trace) if stratified(found) else None,
        leave_one_out=None
        if left_out is None
        else LeaveOneOutEntry(value=left_out.value, error=left_out.error, rows=left_out.probes),
        effective_parameters=EffectiveParametersEntry(
            value=p, error=chosen.error, by="trace" if left_out is None else "leave-one-out"
        ),
        effective_ratio=K / p if p > 0 else None,
        full_minimum=FullMinimumEntry(value=best, observed=observed.full_minimum is not None),
        predicted=_prediction(chosen, trace, K, N, best),
        asked=None if subset_size is None else _prediction(chosen, trace, subset_size, N, best),
        target=None if excess is None else _target(p, excess, best, N),
        observed=observed,
        notes=[*notes, *_notes(found, plain, left_out)],
        cost=analysis_cost(found.budget.ledger, began),
    )


def _estimate(trace: TraceEstimate) -> EstimateEntry:
    return EstimateEntry(value=trace.value, error=trace.error, probes=trace.probes)


def _prediction(chosen: TraceEstimate, trace: TraceEstimate, samples: int, total: int, best: float) -> PredictionEntry:
    excess = predicted_excess(chosen.value, samples, total)
    return PredictionEntry(
        samples=samples,
        fraction=samples / total,
        effective_ratio=samples / chosen.value if chosen.value > 0 else None,
        excess=excess,
        excess_error=predicted_excess(chosen.error, samples, total),
        relative_excess=excess / best,
        optimism=predicted_optimism(chosen.value, samples, total),
        excess_by_trace=predicted_excess(trace.value, samples, total),
    )


def _target(p: float, excess: float, best: float, total: int) -> TargetEntry:
    samples = samples_for_excess(p, excess * best, total)
    return TargetEntry(
        relative_excess=excess,
        excess=excess * best,
        samples=samples,
        fraction=samples / total,
    )


def _observed(found: FinishedPhase, own: float) -> ObservedEntry:
    """Measure what can be seen of the predictions: losses of w on other data, and a full solve after the subset's.

    `full_minimum` is there where a later phase on the full set passed its gradient test; `full_reached` is the lowest
    objective of the run's phases there, to which `excess_at_least` refers.
    """
    data, model = found.data, found.run.model
    full = model.objective(data, SplitName.TRAIN)
    whole = own if found.objective is full else float(full.value(found.w, "evaluation"))
    held_out = model.evaluate(data, found.w, SplitName.VALIDATION)
    here = model.evaluate(data, found.w, SplitName.trained_on(found.record["data"]))
    optimism = None if held_out is None or here is None else training_loss(held_out) - training_loss(here)
    later = [
        (float(full.value(w, "evaluation")), bool(record["converged"]))
        for record, w in zip(found.records, found.parameters, strict=True)
        if record["data"] == "full"
    ]
    reached = min((value for value, _ in later), default=None)
    converged = [value for value, done in later if done]
    return ObservedEntry(
        loss_full=whole,
        optimism=None if found.objective is full else whole - own,
        held_out_optimism=optimism,
        full_minimum=min(converged) if converged else None,
        full_reached=reached,
        excess=whole - min(converged) if converged else None,
        excess_at_least=None if reached is None else whole - reached,
    )


def _notes(found: FinishedPhase, trace: TraceEstimate, left_out: TraceEstimate | None) -> list[str]:
    notes = []
    if not found.record["converged"]:
        notes.append(f"the phase ended by {found.record['stop_reason']}, not by its gradient test; taken as a minimum")
    if left_out is not None and left_out.value - left_out.error > 2 * (trace.value + trace.error):
        notes.append(
            "the trace is far below what leaving samples out tells, because the samples are fitted so well that their "
            "own gradients no longer show the noise; trust leave-one-out"
        )
    if found.run.config.augment_copies and found.record["data"] == "subset":
        notes.append("augmented copies count as samples here, though they are not independent")
    return notes


def _check(subset_size: int | None, subset_frac: float | None, excess: float | None, rows: int) -> None:
    if subset_size is not None and subset_frac is not None:
        raise SettingError("subset_frac", subset_frac, "subset_size is given, too", "give one of them")
    if subset_size is not None and subset_size < 1:
        raise SettingError("subset_size", subset_size, "must be at least 1", "try 1000")
    if subset_frac is not None and not 0 < subset_frac <= 1:
        raise SettingError("subset_frac", subset_frac, "must lie in (0, 1]", "try 0.1")
    if excess is not None and not 0 < excess < float("inf"):
        raise SettingError("excess", excess, "must be above 0", "try 0.05, 5 % of the full minimum's loss")
    if rows < 0 or rows == 1:
        raise SettingError("rows", rows, "must be 0 or at least 2", "try 32")
