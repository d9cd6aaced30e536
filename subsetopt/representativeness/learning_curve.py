"""How much data are needed: the test errors of subset minima over K, with a power law and what it foresees.

error(K) = a + b (K / N)^-c is the usual form of learning curves (Cortes et al. 1993; Hestness et al. 2017,
arXiv 1712.00409). It is fitted to the mean errors, each by its own standard error; the bands are those of fits to
resampled minima (Efron 1979), within each share. Beyond N the law is an extrapolation.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from subsetopt.documents.learning_curve import CurveMetric, CurvePoint, LearningCurveDocument, PowerLaw
from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.errors import SettingError, setting
from subsetopt.files import replace_file, sealed
from subsetopt.report.learning_curve import FILE
from subsetopt.representativeness.curve_answer import answer, unfinished
from subsetopt.representativeness.minima import Minimum
from subsetopt.representativeness.run import Plan, Tell, run_minima
from subsetopt.seeding import derive_seed
from subsetopt.study.statistics import mean_interval
from subsetopt.study.workers import Workers
from subsetopt.training.preparation import prepare

RESAMPLES = 200
MISFIT = 4.0  # standard errors between a mean error and the law, beyond which they do not belong together
FORESEEN = 4.0  # the law is drawn to so many times all rows
Floats = NDArray[np.float64]


def run_learning_curve(
    plan: Plan,
    output: Path,
    *,
    workers: Workers | None = None,
    tell: Tell | None = None,
    command: Sequence[str] = (),
) -> LearningCurveDocument:
    """Find the minima of `plan` in `output`, as a representativeness study does, and write learning_curve.json there.

    Raises as `run_representativeness` and `learning_curve` do; the same call continues an interrupted study.
    """
    if len({*plan.fractions, 1.0}) < 3:
        raise SettingError("fractions", list(plan.fractions), "are too few for a curve", "give two or more below 1")
    held_out = prepare(plan.run.model_copy(update={"seed": plan.seeds[0]})).data.dataset
    if held_out.test is None and held_out.validation is None:
        remedy = f"set {setting('validation_fraction')} above 0"
        raise SettingError("dataset", plan.run.dataset, "has no test and no held-out data to measure on", remedy)
    study, minima = run_minima(plan, output, workers=workers, tell=tell, command=command, effective=True)
    curve = learning_curve(study, minima)
    replace_file(output / FILE, json.dumps(sealed(curve.content()), indent=1).encode())
    return curve


def learning_curve(study: RepresentativenessDocument, minima: Sequence[Minimum]) -> LearningCurveDocument:
    """Return the curve of a study's minima; raises `SettingError` without test data or with too few shares."""
    if any(row.test_metric is None for row in minima):
        raise SettingError("dataset", study.dataset, "has no test data to measure errors on", "give a test split")
    metric = _metric(study, minima)
    errors = {row: _error(row, metric) for row in minima}
    shares = sorted({row.fraction for row in minima})
    if len(shares) < 3:
        raise SettingError("fractions", shares[:-1], "are too few for a curve", "give two or more below 1")
    by_share = [[row for row in minima if row.fraction == share] for share in shares]
    full = {row.seed: errors[row] for row in by_share[-1]}
    effective = next((row.effective_parameters for row in by_share[-1] if row.effective_parameters), None)
    points = [_point(rows, errors, full, effective) for rows in by_share]
    samples = [[errors[row] for row in rows] for rows in by_share]
    law, fits = _law(np.array(shares), samples)
    grid = np.geomspace(shares[0], FORESEEN, 40)
    return LearningCurveDocument(
        kind="learning-curve",
        title=study.title.replace("How far subset minima stand for the full set", "How much data are needed"),
        metric=metric,
        measured_on="test" if minima[0].measured_on == "test" else "held-out",
        rows=points[-1].samples,
        parameters=study.parameters,
        outputs=study.outputs,
        effective_parameters=effective,
        points=points,
        law=law,
        band=[] if law is None else _band(grid, law, fits),
        answer=[*answer(points, law, metric), *unfinished(minima)],
    )


def _metric(study: RepresentativenessDocument, minima: Sequence[Minimum]) -> CurveMetric:
    """Return what the errors are of: for regression R², which has no unit, unless the targets do not vary."""
    return "r2" if study.metric == "mse" and all(row.test_r2 is not None for row in minima) else study.metric


def _error(row: Minimum, metric: CurveMetric) -> float:
    figure = row.test_r2 if metric == "r2" else row.test_metric
    assert figure is not None, "there are held-out data"
    return figure if metric == "mse" else 1 - figure


def _point(
    rows: Sequence[Minimum], errors: dict[Minimum, float], full: dict[int, float], effective: float | None
) -> CurvePoint:
    """Return the figures of one share; what is lost is paired by seed, over subsets where there is one seed."""
    seeds = sorted({row.seed for row in rows})
    lost = [[errors[row] - full[seed] for row in rows if row.seed == seed] for seed in seeds]
    groups = [mean(values) for values in lost] if len(seeds) > 1 else lost[0]
    whole = rows[0].fraction == 1
    return CurvePoint(
        fraction=rows[0].fraction,
        samples=rows[0].samples,
        ratio=rows[0].ratio,
        effective_ratio=None if effective is None else rows[0].samples / effective,
        n=len(rows),
        error=mean(errors[row] for row in rows),
        lost=None if whole else mean(groups),
        lost_interval=None if whole else mean_interval(groups),
    )


def power(share: Floats, offset: float, scale: float, exponent: float) -> Floats:
    """Return offset + scale share^-exponent."""
    result: Floats = offset + scale * share**-exponent
    return result


def _law(shares: Floats, samples: Sequence[Sequence[float]]) -> tuple[PowerLaw | None, list[Floats]]:
    """Return the law and the parameters of its resampled fits; None where errors do not fall, or not by a power law."""
    means = np.array([mean(values) for values in samples])
    if not means.max() > 0:  # no errors at all
        return None, []
    spreads = _spreads(shares, samples)
    weights = np.maximum(spreads, 1e-3 * means.max()) / np.sqrt([len(values) for values in samples])
    best = _fitted(shares, means, weights)
    noise = 2 * float(np.hypot(spreads[0] / len(samples[0]) ** 0.5, spreads[-1] / len(samples[-1]) ** 0.5))
    falls = means[0] - means[-1] > max(noise, 1e-9 * abs(means[0]))
    if best is None or not falls or not _follows(shares, means, weights, best):
        return None, []
    if all(len(values) == 1 for values in samples):
        return _power_law(best, []), []
    draws = np.random.default_rng(derive_seed(0, "learning curve"))
    fits = []
    for _ in range(RESAMPLES):
        # What the spread of a single minimum is, the other shares tell.
        resampled = np.array(
            [
                mean(draws.choice(values, len(values))) if len(values) > 1 else values[0] + spread * draws.normal()
                for values, spread in zip(samples, spreads, strict=True)
            ]
        )
        if (fit := _fitted(shares, resampled, weights)) is not None:
            fits.append(fit)
    return _power_law(best, fits), fits


def _spreads(shares: Floats, samples: Sequence[Sequence[float]]) -> Floats:
    """Return the standard deviation of a minimum's error at each share, a power of the share; 0 with one of each.

    Three minima alone tell theirs badly, and that of a small share is many times that of a large one.
    """
    known = [
        (share, np.std(values, ddof=1))
        for share, values in zip(shares, samples, strict=True)
        if len(values) > 1 and np.std(values) > 0
    ]
    if not known:
        return np.zeros(len(shares))
    at, spread = np.log(np.array(known, dtype=np.float64)).T
    if len(known) < 3:
        return np.full(len(shares), float(np.exp(spread.mean())))
    slope, height = np.polyfit(at, spread, 1)
    fitted: Floats = np.exp(height + min(float(slope), 0.0) * np.log(shares))
    return fitted


def _follows(shares: Floats, means: Floats, weights: Floats, fit: Floats) -> bool:
    """Return whether errors that rise somewhere on the way do so within what their own spread explains."""
    rises = float(np.max(np.diff(means), initial=0.0))
    misfit = float(np.max(np.abs(means - power(shares, *fit)) / weights))
    return rises <= 0.1 * float(means[0] - means[-1]) or misfit <= MISFIT


def _power_law(best: Floats, fits: Sequence[Floats]) -> PowerLaw:
    doubling = float(power(np.array(1.0), *best) - power(np.array(2.0), *best))
    gains = [float(power(np.array(1.0), *fit) - power(np.array(2.0), *fit)) for fit in fits]
    return PowerLaw(
        offset=float(best[0]),
        scale=float(best[1]),
        exponent=float(best[2]),
        exponent_interval=_central([float(fit[2]) for fit in fits]),
        doubling=doubling,
        doubling_interval=_central(gains),
    )


def _fitted(shares: Floats, means: Floats, weights: Floats) -> Floats | None:
    start = (0.5 * means[-1], max(0.5 * means[-1], 1e-12), 0.5)
    top = max(float(means.max()), 1e-12)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found, _ = curve_fit(power, shares, means, start, weights, bounds=([0, 0, 0.01], [top, 2 * top, 3.0]))
    except (RuntimeError, ValueError):
        return None
    return np.asarray(found, dtype=np.float64)


def _central(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < RESAMPLES // 2:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _band(grid: Floats, law: PowerLaw, fits: Sequence[Floats]) -> list[list[float]]:
    """Return (share, error, low, high) of the law over `grid`."""
    line = power(grid, law.offset, law.scale, law.exponent)
    if not fits:
        return [[float(x), float(y), float(y), float(y)] for x, y in zip(grid, line, strict=True)]
    low, high = np.quantile([power(grid, *fit) for fit in fits], [0.025, 0.975], axis=0)
    columns = zip(grid, line, low, high, strict=True)
    return [[float(x), float(y), float(a), float(b)] for x, y, a, b in columns]
