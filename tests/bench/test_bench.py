"""The benchmark: what it counts is checked against counts made elsewhere; times only for being there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from subsetopt.bench import PARTS, BenchSettings, algebra, run_bench
from subsetopt.bench.contestants import _CountProducts, contestants
from subsetopt.bench.counters import counting
from subsetopt.bench.images import mnist_images, synthetic_images
from subsetopt.bench.output import write_bench
from subsetopt.bench.problems import PROBLEMS, cnn_problem
from subsetopt.bench.race import _curve, _reach
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.bench.solving import _solve, geometric_means
from subsetopt.bench.tables import BenchTable, tables
from subsetopt.bench.timing import median_seconds, sorted_by_turns
from subsetopt.errors import SettingError, UserError
from subsetopt.objective import FunctionObjective
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers import minimize

GTOL = 1e-6


def _count_calls(fun: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    calls = [0]

    def counted(x: Tensor) -> Tensor:
        calls[0] += 1
        return fun(x)

    return counted, calls


@pytest.mark.parametrize("name", list(contestants()))
def test_counted_evaluations_are_the_calls_made_and_each_contestant_solves_beale(name: str) -> None:
    problem = PROBLEMS["beale"]
    fun, calls = _count_calls(problem.fun)
    recorder = EvaluationRecorder(FunctionObjective(fun, problem.x0), limit=10_000)
    solved = contestants()[name](recorder, GTOL, 10_000)
    _, gradient = FunctionObjective(problem.fun, problem.x0).value_and_gradient(solved.w)
    assert float(gradient.abs().amax()) <= GTOL
    assert recorder.evaluations == calls[0] - recorder.linearisations
    assert solved.iterations > 0


def test_our_rows_are_what_minimize_says() -> None:
    problem = PROBLEMS["beale"]
    for method in ("lbfgs", "ncg", "newton-cg"):
        row = _solve(problem, contestants()[method])
        result = minimize(problem.fun, problem.x0, method=method, gtol=GTOL)
        assert (row["evaluations"], row["products"]) == (result.counts["evaluations"], result.counts["products"])
        assert row["success"] and row["gradient_norm"] == result.gradient_norm


def test_products_by_double_backward_are_counted_and_gradients_are_not() -> None:
    problem = PROBLEMS["wood"]
    recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0))
    x = problem.x0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.fun(_CountProducts.apply(x, recorder)), x, create_graph=True)
    assert recorder.products == 0
    expected = FunctionObjective(problem.fun, problem.x0).linearise(problem.x0).hvp(problem.x0)
    for count in (1, 2, 3):
        (product,) = torch.autograd.grad(gradient, x, problem.x0, retain_graph=True)
        assert recorder.products == count
    torch.testing.assert_close(product, expected)


def test_recorder_stops_at_its_limit_products_included() -> None:
    problem = PROBLEMS["wood"]
    recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0), limit=3)
    w = recorder.initial()
    _, gradient = recorder.value_and_gradient(w)
    at = recorder.linearise(w)
    at.hvp(gradient)
    at.hvp(gradient)
    with pytest.raises(BudgetExhausted):
        recorder.value_and_gradient(w)
    assert (recorder.evaluations, recorder.products, recorder.linearisations) == (1, 2, 1)
    for name in contestants():
        assert not _limited(name, 20)["success"]


def _limited(name: str, limit: int) -> dict[str, Any]:
    problem = PROBLEMS["wood"]
    recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0), limit)
    solved = contestants()[name](recorder, GTOL, 1000)
    assert recorder.evaluations + recorder.products <= limit + 1
    _, gradient = FunctionObjective(problem.fun, problem.x0).value_and_gradient(solved.w)
    return {"success": float(gradient.abs().amax()) <= GTOL}


def test_recorder_traces_losses_and_times_the_inside() -> None:
    problem = PROBLEMS["beale"]
    recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0), tracing=True)
    before = time.perf_counter()
    contestants()["lbfgs"](recorder, GTOL, 100)
    assert [calls for _, calls, _ in recorder.trace] == list(range(1, recorder.evaluations + 1))
    assert recorder.trace[0][2] == float(problem.fun(problem.x0))
    assert 0 < recorder.inside < recorder.trace[-1][0] <= time.perf_counter() - before


def test_counters_see_reads_and_the_peak_of_live_bytes() -> None:
    given = torch.ones(1000, dtype=torch.float64)
    with counting() as counters:
        a = given + 1
        b = a * 2
        a.add_(b)  # in place: nothing new
        del a
        c = b[:500]  # a view: nothing new
        assert counters.live_bytes == 8000 and counters.peak_bytes == 16000
        del b, c
        assert counters.live_bytes == 0
        given[3].item()
        float(given[4])
    assert counters.synchronisations == 2


def test_our_synchronisations_stay_within_what_the_issue_allows() -> None:
    problem = PROBLEMS["mlp-171"]
    with counting() as counters:
        recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0))
        solved = contestants()["lbfgs"](recorder, GTOL, 40)
    assert counters.synchronisations <= 3 * solved.iterations
    with counting() as counters:
        recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0))
        contestants()["newton-cg"](recorder, GTOL, 5)
    assert counters.synchronisations <= recorder.products + recorder.evaluations + 1


def test_medians_are_taken_by_turns_and_the_warm_up_is_left_out() -> None:
    order: list[str] = []
    now = [0.0]
    costs = {"a": iter([100.0, 1.0, 9.0, 2.0]), "b": iter([100.0, 5.0, 5.0, 5.0])}

    def candidate(name: str) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            now[0] += next(costs[name])

        return run

    seconds = median_seconds({name: candidate(name) for name in costs}, 3, lambda: now[0])
    assert seconds == {"a": 2.0, "b": 5.0}
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert sorted_by_turns({"x": 0, "y": 0, "z": 0}, 1) == ["z", "y", "x"]


def _rows(**evaluations: int | None) -> list[dict[str, Any]]:
    names = ("lbfgs", "lbfgs-10", "ncg", "newton-cg", "scipy:L-BFGS-B", "torch:lbfgs", "torch:lbfgs-10")
    names += ("scipy:CG", "scipy:trust-ncg", "scipy:Newton-CG")
    given = {name.replace("_", ":").replace("BFGSB", "BFGS-B"): count for name, count in evaluations.items()}
    return [
        {
            "problem": "p",
            "solver": name,
            "success": given.get(name, 10) is not None,
            "evaluations": given.get(name, 10) or 99,
            "gradient_equivalents": 10.0,
        }
        for name in names
    ]


def test_geometric_mean_is_of_ours_to_the_better_peer_that_succeeds() -> None:
    first = _rows(lbfgs=6, **{"torch:lbfgs": 3, "scipy:L-BFGS-B": 12})
    second = [{**row, "problem": "q"} for row in _rows(lbfgs=8, **{"torch:lbfgs": None})]
    lost = [{**row, "problem": "r"} for row in _rows(lbfgs=None)]
    mean = geometric_means(first + second + lost)[0]
    assert mean["ratios"] == {"p": 2.0, "q": 0.8}
    assert mean["mean"] == pytest.approx(math.sqrt(1.6))
    assert mean["failed"] == {"lbfgs": ["r"], "scipy:L-BFGS-B": [], "torch:lbfgs": ["q"], "torch:lbfgs-10": []}


def test_reaching_a_loss_takes_medians_and_none_where_a_run_falls_short() -> None:
    runs = [[(0.1, 1, 5.0), (seconds, 4, 1.0), (9.0, 6, 0.5)] for seconds in (0.4, 0.9, 0.5)]
    assert _reach(runs, 1.0) == {"seconds": 0.5, "calls": 4}
    assert _reach(runs, 0.1) is None
    assert _curve([(0.0, 1, 3.0), (1.0, 2, 4.0), (2.0, 3, 2.0)]) == [(0.0, 1, 3.0), (2.0, 3, 2.0)]


def test_cnn_problem_is_the_objective_of_the_package() -> None:
    from subsetopt.models import build_model
    from subsetopt.objective import Objective

    images = synthetic_images(20)
    problem = cnn_problem(images, samples=12, l2=1e-2)
    model = build_model("cnn", in_shape=(1, 28, 28), n_outputs=10, dtype=torch.float64)
    objective = Objective(model, images.inputs[:12].double(), images.targets[:12], l2=1e-2)
    loss, gradient = objective.value_and_gradient(objective.initial())
    value, slope = FunctionObjective(problem.fun, problem.x0).value_and_gradient(problem.x0)
    assert float(value) == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-9, atol=1e-12)


def test_images_are_made_up_where_mnist_is_missing_and_that_is_said(tmp_path: Path) -> None:
    images = mnist_images(30, tmp_path)
    assert images.name == "synthetic" and images.inputs.shape == (30, 1, 28, 28)
    assert torch.equal(images.inputs, mnist_images(30, tmp_path).inputs)


def test_images_are_mnist_where_it_is(real_data_dir: Path) -> None:
    images = mnist_images(30, real_data_dir)
    assert images.name == "mnist" and images.inputs.shape == (30, 1, 28, 28)
    assert float(images.inputs.mean().abs()) < 1e-5


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = BenchSettings(quick=True, repeats=1, data_dir=tmp_path_factory.mktemp("empty"), clock="cpu")
    return run_bench(settings)


def test_every_part_is_measured_and_counts_are_deterministic(document: dict[str, Any], tmp_path: Path) -> None:
    assert set(PARTS) < set(document) and document["data"] == "synthetic"
    again = run_bench(BenchSettings(parts=("solvers",), quick=True, repeats=1, data_dir=tmp_path))
    assert "products" not in again
    for row, other in zip(document["solvers"]["rows"], again["solvers"]["rows"], strict=True):
        for name in ("problem", "solver", "success", "evaluations", "products", "iterations", "loss"):
            assert row[name] == other[name]


def test_all_ours_succeed_and_every_time_is_positive(document: dict[str, Any]) -> None:
    rows = document["solvers"]["rows"]
    assert all(row["success"] for row in rows if row["solver"] in ("lbfgs", "ncg", "newton-cg"))
    assert all(row["seconds"] > 0 and row["product_price"] > 0 for row in rows)
    for row in document["products"]:
        assert row["all_chunks_stored"] and not row["note"] and row["gradient_seconds"] > 0
        assert set(row["ratios"]) == {"hvp", "ggnvp", "linearise"}


def test_files_hold_one_finite_document_its_tables_and_a_figure(document: dict[str, Any], tmp_path: Path) -> None:
    paths = write_bench(document, tmp_path / "new")
    assert [path.name for path in paths] == ["bench.json", "table.md", "bench.png"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(paths[0].read_text(), parse_constant=refuse)["seconds"] == document["seconds"]
    text = paths[1].read_text()
    assert all(table.title in text for table in tables(document))
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_cannot_be_written_is_said_in_one_line(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output = .*name another directory"):
        write_bench(document, tmp_path / "file" / "below")


def test_markdown_has_a_rule_below_the_heading() -> None:
    table = BenchTable("T", "n", [["a", "b"], ["x", "1"]])
    assert table.markdown() == "## T\n\nn\n\n| a | b |\n| --- | ---: |\n| x | 1 |"
    assert table.text() == "T\n  a  b\n  x  1\n  n"


def test_problems_can_be_picked(tmp_path: Path) -> None:
    picked = BenchSettings(parts=("solvers",), problems=("beale",), repeats=1, data_dir=tmp_path)
    rows = run_bench(picked)["solvers"]["rows"]
    assert {row["problem"] for row in rows} == {"beale"}


@pytest.mark.parametrize("wrong", [{"parts": ("solver",)}, {"repeats": 0}, {"clock": "sun"}, {"problems": ("bale",)}])
def test_mistakes_are_told_before_anything_is_measured(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        BenchSettings(**wrong)


def test_formulas_of_the_algebra_have_the_gradients_of_autograd() -> None:
    for make in algebra.PROBLEMS.values():
        problem = make(7, torch.float64, torch.device("cpu"))
        w = problem.initial() + torch.linspace(0.1, 0.7, 7, dtype=torch.float64)
        w.requires_grad_()
        loss, gradient = problem.value_and_gradient(w)
        (expected,) = torch.autograd.grad(loss, w)
        torch.testing.assert_close(gradient.detach(), expected)


def test_algebra_ends_where_a_search_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(recorder: EvaluationRecorder, gtol: float, iterations: int) -> NoReturn:
        while True:
            recorder.value_and_gradient(recorder.initial())

    monkeypatch.setattr(algebra, "contestants", lambda pairs: dict.fromkeys(("ours", "torch", "scipy"), endless))
    rows = algebra.measure_algebra(1, True, torch.device("cpu"), time.process_time)
    assert all(row["seconds"]["torch"] > 0 for row in rows)


def test_algebra_times_all_contestants_on_the_same_work() -> None:
    rows = algebra.measure_algebra(1, True, torch.device("cpu"), time.process_time)
    assert [(row["problem"], row["dtype"]) for row in rows] == [
        (problem, dtype) for problem in ("quadratic", "chain") for dtype in ("float32", "float64")
    ]
    for row in rows:
        assert set(row["seconds"]) == {"ours", "torch", "scipy"}
        median, least, most = row["ratios"]["torch"]
        assert least <= median <= most and min(row["seconds"].values()) > 0
    (table,) = tables({"algebra": rows})
    assert table.rows[1][:4] == ["quadratic", "float32", "1e3", "3"]
