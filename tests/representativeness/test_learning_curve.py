"""Learning curves: the law of made-up minima is found again; a run's answer, files, figure and refusals."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from subsetopt.data import load_dataset
from subsetopt.documents.learning_curve import LearningCurveDocument
from subsetopt.documents.representativeness import FractionResult, RepresentativenessDocument
from subsetopt.errors import DataError, UserError
from subsetopt.report.learning_curve import FIGURE, FILE, learning_curve_figure
from subsetopt.representativeness.learning_curve import learning_curve, run_learning_curve
from subsetopt.representativeness.minima import Minimum
from subsetopt.representativeness.run import Plan
from subsetopt.training.settings.run import make_config

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def study(metric: str) -> RepresentativenessDocument:
    results = [FractionResult(fraction=share, samples=round(10_000 * share), ratio=50 * share) for share in SHARES]
    return RepresentativenessDocument(
        kind="representativeness", parameters=200, outputs=1, metric=metric, results=results, seeds=[0, 1, 2]
    )


def minima(law: tuple[float, float, float], noise: float, metric: str) -> list[Minimum]:
    draws = np.random.default_rng(3)
    rows = []
    for share in SHARES:
        for seed in range(3):
            for repeat in range(1 if share == 1 else 4):
                error = law[0] + law[1] * share ** -law[2] + noise * draws.normal()
                figure = 1 - error if metric == "accuracy" else error
                values = dict.fromkeys(("subset_objective", "full_objective", "train_loss", "gradient_norm"), 1.0)
                rows.append(
                    Minimum(
                        seed=seed,
                        fraction=share,
                        repeat=repeat,
                        samples=round(10_000 * share),
                        ratio=50 * share,
                        excess=1.0,
                        test_loss=1.0,
                        test_metric=figure,
                        converged=True,
                        stop_reason="gradient",
                        iterations=1,
                        epoch_equivalents=1.0,
                        **values,
                    )
                )
    return rows


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_law_of_the_errors_is_found_again(metric: str) -> None:
    law = (0.02, 0.01, 0.6)
    curve = learning_curve(study(metric), minima(law, 2e-4, metric))
    assert curve.law is not None and curve.law.exponent_interval is not None
    assert (curve.law.offset, curve.law.scale) == pytest.approx(law[:2], abs=2e-3)
    low, high = curve.law.exponent_interval
    assert low < 0.6 < high and high - low < 0.2
    worth = 0.01 * (1 - 2**-0.6)
    assert curve.law.doubling == pytest.approx(worth, rel=0.1)
    assert curve.law.doubling_interval is not None
    assert curve.law.doubling_interval[0] < worth < curve.law.doubling_interval[1]
    lost = [point.lost for point in curve.points[:-1]]
    assert lost == pytest.approx([0.01 * (share**-0.6 - 1) for share in SHARES[:-1]], abs=5e-4)
    assert LearningCurveDocument.read(json.loads(json.dumps(curve.content()))) == curve


def test_the_smallest_share_that_loses_a_point_at_most_is_the_answer() -> None:
    curve = learning_curve(study("accuracy"), minima((0.02, 0.01, 0.6), 1e-5, "accuracy"))
    # 0.01 (0.5^-0.6 - 1) = 0.5 points; at a fifth it would be 1.6
    assert curve.answer[0].startswith(
        "With 50 % of the rows (5000, Q = 25) you lose 0.52 points of accuracy (0.51 to 0.5"
    )
    assert "Twice as many rows as there are would be worth 0.34 points of accuracy" in curve.answer[1]


def test_errors_that_do_not_fall_have_no_law() -> None:
    curve = learning_curve(study("mse"), minima((1.0, -0.01, 0.3), 0.0, "mse"))
    assert curve.law is None and curve.band == [] and "does not fall" in curve.answer[1]


def test_a_study_is_run_drawn_and_read_again(tmp_path: Path) -> None:
    config = make_config({"dataset": "digits", "model": "linear", "max_iterations": 30})
    plan = Plan(config, (0.1, 0.4), 2)
    curve = run_learning_curve(plan, tmp_path / "curve")
    assert [point.n for point in curve.points] == [2, 2, 1] and curve.points[0].error > curve.points[-1].error
    assert learning_curve_figure(tmp_path / "curve") == tmp_path / "curve" / FIGURE
    before = (tmp_path / "curve" / FILE).read_bytes()
    assert run_learning_curve(plan, tmp_path / "curve") == curve
    assert (tmp_path / "curve" / FILE).read_bytes() == before
    (tmp_path / "curve" / FILE).write_text('{"kind": "learning-curve", "metric": "accuracy", "points": [{}]}')
    with pytest.raises(DataError, match=r"learning_curve\.json: .*learn-curve"):
        learning_curve_figure(tmp_path / "curve")


def test_what_makes_no_curve_is_refused_before_any_work(tmp_path: Path) -> None:
    config = make_config({"dataset": "digits", "model": "linear"})
    with pytest.raises(UserError, match=r"fractions = .*two or more below 1"):
        run_learning_curve(Plan(config, (0.5,), 2), tmp_path / "a")
    np.savez(tmp_path / "d.npz", x_train=np.random.default_rng(0).normal(size=(50, 3)), y_train=np.arange(50) % 2)
    alone = make_config(
        {"dataset": "npz", "data_file": tmp_path / "d.npz", "model": "linear", "validation_fraction": 0}
    )
    with pytest.raises(UserError, match="dataset = 'npz': has no test and no held-out data"):
        run_learning_curve(Plan(alone, (0.2, 0.5), 2), tmp_path / "b")
    with pytest.raises(
        UserError, match=r"fractions = 0.0001: leaves too few of 1294 samples: .*classes, 10; give larger"
    ):
        run_learning_curve(Plan(config, (0.0001, 0.5), 2), tmp_path / "a")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_held_out_rows_stand_in_for_test_data_and_the_effective_ratio_is_that_of_the_full_minimum(
    tmp_path: Path,
) -> None:
    """Reference: p = P for least squares with next to no L2, tr(H^-1 C) = 2 sigma^2 P, in any unit of the targets."""
    draws = np.random.default_rng(1)
    x = draws.normal(size=(1200, 3))
    y = x @ [1.0, -2.0, 0.5] + draws.normal(size=1200)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y)
    settings = {"dataset": "npz", "data_file": tmp_path / "d.npz", "model": "linear", "l2": 1e-6}
    curve = run_learning_curve(Plan(make_config(settings), (0.02, 0.1, 0.3), 2), tmp_path / "study")
    assert curve.measured_on == "held-out" and curve.effective_parameters is not None
    assert curve.effective_parameters == pytest.approx(4, rel=0.15)
    for point in curve.points:
        assert point.effective_ratio == pytest.approx(point.samples / curve.effective_parameters)
    assert "effective Q" in curve.answer[0]


def test_regression_is_answered_in_r2_whatever_its_unit_and_another_file_is_solved_anew(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    x = draws.normal(size=(400, 3))
    y = x @ [1.0, -2.0, 0.5] + draws.normal(size=400)
    settings = {"dataset": "npz", "data_file": tmp_path / "d.npz", "model": "linear", "l2": 1e-6}
    curves, errors = [], []
    for unit in (1.0, 1000.0):
        np.savez(tmp_path / "d.npz", x_train=x, y_train=unit * y)
        curves.append(run_learning_curve(Plan(make_config(settings), (0.1, 0.5), 2), tmp_path / "study"))
        with (tmp_path / "study" / "results.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["fraction"] == "1.0"]
        errors.append(float(rows[0]["test_metric"]))
        held_out = load_dataset("npz", data_file=tmp_path / "d.npz").validation
        assert held_out is not None
        spread = float(held_out.targets.double().var(correction=0))
        assert curves[-1].points[-1].error == pytest.approx(errors[-1] / spread, rel=1e-5)
    assert errors[1] == pytest.approx(1e6 * errors[0], rel=1e-3)
    assert curves[0].metric == "r2" and " of R²" in curves[0].answer[0]
    assert curves[1].points[-1].error == pytest.approx(curves[0].points[-1].error, rel=1e-3)


def test_a_share_is_enough_where_the_whole_interval_is_and_unfinished_solves_are_said() -> None:
    # Half of the rows lose 0.52 points in the mean; with this noise of a minimum the interval reaches beyond one.
    rows = minima((0.02, 0.01, 0.6), 4e-3, "accuracy")
    curve = learning_curve(study("accuracy"), rows)
    half = curve.points[-2]
    assert half.lost is not None and half.lost_interval is not None and half.lost_interval[1] is not None
    assert half.lost < 0.01 < half.lost_interval[1]
    assert curve.answer[0].endswith("No share tried is sure to lose at most 1 point of accuracy.")
    assert not any("before their minimum" in line for line in curve.answer)
    early = [replace(row, converged=row.repeat > 0, stop_reason="max_iterations") for row in rows]
    said = learning_curve(study("accuracy"), early).answer[-1]
    assert said.startswith(f"{sum(not row.converged for row in early)} of the {len(rows)} solves ended before")
    assert "max_iterations" in said


@pytest.mark.parametrize("errors", [[0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.05, 0.19]])
def test_errors_without_a_law_foresee_nothing(errors: list[float]) -> None:
    shares = (0.1, 0.2, 0.5, 1.0)
    rows = [
        replace(row, fraction=share, test_metric=1 - error - 1e-4 * number)
        for share, error in zip(shares, errors, strict=True)
        for number, row in enumerate(minima((0.02, 0.01, 0.6), 0.0, "accuracy")[:3])
    ]
    curve = learning_curve(study("accuracy"), rows)
    assert curve.law is None and curve.band == [] and "nothing is foreseen" in curve.answer[-1]
    assert not any("nan" in line for line in curve.answer)


def test_one_minimum_for_each_share_has_a_law_without_a_band() -> None:
    rows = [row for row in minima((0.02, 0.01, 0.6), 0.0, "accuracy") if row.seed == 0 and row.repeat == 0]
    curve = learning_curve(study("accuracy"), rows)
    assert curve.law is not None and curve.law.doubling_interval is None
    assert curve.law.exponent == pytest.approx(0.6, abs=0.02) and "has no band" in curve.answer[-1]


def test_no_errors_at_all_have_no_law_and_no_warning() -> None:
    """Their standard errors are 0, by which scipy divided."""
    rows = [replace(row, test_metric=1.0) for row in minima((0.02, 0.01, 0.6), 0.0, "accuracy")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = learning_curve(study("accuracy"), rows)
    assert curve.law is None and curve.band == []
