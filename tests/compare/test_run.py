"""Whole studies: their files, fairness, reuse after an interruption, and a cell that fails."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from subsetopt.compare import cells as cells_module
from subsetopt.compare import execution
from subsetopt.compare.cells import Cell, CellMaker, CellOutcome
from subsetopt.compare.config import ValidatedStudy, make_study
from subsetopt.compare.execution import SilentStudy
from subsetopt.compare.run import run_comparison
from subsetopt.compare.summary import RESULT_COLUMNS
from subsetopt.errors import UserError
from subsetopt.report.study.files import read_curves, read_study
from subsetopt.study.workers import StudyInterrupted, Workers
from subsetopt.training.budget import Clock
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Silent
from subsetopt.training.run_directory import ENVIRONMENT, METRICS, RESULT, RunDirectory
from subsetopt.training.stop_request import StopRequest
from tests.compare.conftest import SMALL


def _times(root: Path, name: str = RESULT) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in sorted(root.glob(f"*/*/{name}"))}


def _looks(cells: Path) -> list[int]:
    lines = [path.read_text().splitlines() for path in sorted(cells.glob(f"*/{METRICS}"))]
    return [sum("validation" in json.loads(line) for line in of_a_run) for of_a_run in lines]


def _steps(cell: Path) -> int:
    """Return the steps that the checkpoint of a run in its first phase has; 0 before there is one."""
    state = cell / "state.json"
    return (json.loads(state.read_text())["phase_state"] or {}).get("iterations", 0) if state.exists() else 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a finished small study and its summary; tests must not change it."""
    root = tmp_path_factory.mktemp("study") / "a"
    return root, run_comparison(make_study(SMALL), root, command=["subsetopt", "compare"]).content()


def test_the_files_are_complete_and_the_renderer_reads_them(finished: tuple[Path, dict[str, Any]]) -> None:
    root, summary = finished
    assert read_study(root).model_copy(update={"digest": None}).content() == {**summary, "digest": None}
    study, points = read_study(root), read_curves(root)
    assert study.names == ["lbfgs@0.2+full", "adam"] and study.seed_count == 2
    assert {point.kind for point in points} >= {"subset", "train", "validation"}
    with (root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == RESULT_COLUMNS and len(rows) == 4
    assert all(row["status"] == "done" and float(row["epoch_equivalents"]) <= 2.0 + 1e-9 for row in rows)
    assert all((root / "cells" / row["cell"] / RESULT).is_file() for row in rows)
    assert {pair["verdict"] for pair in summary["comparisons"]} <= {"better", "worse", "no difference"}
    assert summary["verdict"] and not summary["failures"]


def test_cells_of_seconds_leave_no_checkpoint(finished: tuple[Path, dict[str, Any]]) -> None:
    root, _ = finished
    assert len(list(root.glob("cells/*/model.safetensors"))) == 4
    assert not list(root.glob("*/*/state.json")) and not list(root.glob("*/*/checkpoint.safetensors"))


def test_the_summary_agrees_with_the_cells(finished: tuple[Path, dict[str, Any]]) -> None:
    root, summary = finished
    row = next(row for row in summary["results"] if row["method"] == "adam")
    runs = [json.loads(path.read_text()) for path in sorted(root.glob("cells/adam-*/result.json"))]
    assert sorted(row["values"]) == sorted(run["metrics"]["test"]["accuracy"] for run in runs)
    trials = [json.loads(path.read_text()) for path in root.glob("tuning/adam-*/result.json")]
    tuning = sum(run["cost"]["epoch_equivalents"] for run in trials) / 2  # a search for each of the two seeds
    assert row["cost_including_tuning"] == pytest.approx(row["cost_mean"] + tuning)
    assert row["objective_mean"] == pytest.approx(sum(run["objective"] for run in runs) / 2)


def test_every_seed_has_a_search_of_its_own_with_as_many_trials(finished: tuple[Path, dict[str, Any]]) -> None:
    for method in finished[1]["methods"]:
        searches = method["tuning"]
        assert [search["seed"] for search in searches] == [0, 1]
        assert [search["tuning_seeds"] for search in searches] == [[1_000_000], [1_001_000]]
        assert [len(search["trials"]) for search in searches] == [4, 4], "three values, and max_extensions = 1"


def test_the_objective_is_the_loss_with_its_penalty_at_the_weights_of_the_run(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    """Reference: l2/2 ||w||^2 of the stored model, and the training loss of the result."""
    for path in finished[0].glob("cells/*"):
        result = json.loads((path / RESULT).read_text())
        squares = sum(float(value.double().square().sum()) for value in load_file(path / "model.safetensors").values())
        assert result["objective"] == pytest.approx(result["metrics"]["train"]["loss"] + 0.5e-3 * squares, rel=1e-9)


def test_tuning_leaves_the_test_data_unread_and_uses_other_seeds(finished: tuple[Path, dict[str, Any]]) -> None:
    trials = [json.loads(path.read_text()) for path in finished[0].glob("tuning/*/result.json")]
    assert trials and all(set(trial["metrics"]) == {"validation"} for trial in trials)
    assert {trial["seed"] for trial in trials} == {1_000_000, 1_001_000}


def test_only_the_runs_that_are_compared_look_at_held_out_data_on_the_way(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    looks = {purpose: _looks(finished[0] / purpose) for purpose in ("tuning", "cells")}
    assert looks["tuning"] and not any(looks["tuning"])
    assert looks["cells"] and all(number > 5 for number in looks["cells"])


def test_the_same_command_again_computes_nothing(finished: tuple[Path, dict[str, Any]]) -> None:
    root, summary = finished
    before = _times(root)
    again = run_comparison(make_study(SMALL), root, command=["subsetopt", "compare"])
    assert _times(root) == before and again.content() == summary


def test_adding_methods_and_seeds_keeps_what_is_there(tmp_path: Path, small: ValidatedStudy) -> None:
    run_comparison(make_study({**SMALL, "methods": "adam", "seeds": 1}), tmp_path / "a")
    before = _times(tmp_path / "a")
    run_comparison(small, tmp_path / "a")
    after = _times(tmp_path / "a")
    assert before.items() <= after.items()
    assert sum(name.startswith("cells/") for name in after) == 4


def test_cells_of_another_version_are_run_again_and_kept(tmp_path: Path) -> None:
    class Listener(execution.SilentStudy):
        def message(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    study = make_study({**SMALL, "methods": "adam", "tune": False, "max_extensions": 4})
    before = run_comparison(study, tmp_path / "a")
    old, kept = sorted((tmp_path / "a" / "cells").iterdir())
    untouched = _times(kept.parent.parent)[f"cells/{kept.name}/{RESULT}"]
    environment = json.loads((old / ENVIRONMENT).read_text())
    (old / ENVIRONMENT).write_text(json.dumps({**environment, "subsetopt": "0.0.9"}))
    (old / RESULT).write_text("{}")
    again = run_comparison(study, tmp_path / "a", progress=Listener())
    assert again.results[0].values == before.results[0].values
    assert (old.with_name(f"{old.name}-0.0.9") / RESULT).read_text() == "{}"
    assert _times(tmp_path / "a")[f"cells/{kept.name}/{RESULT}"] == untouched
    assert len(said) == 1 and said[0].startswith("1 cell of subsetopt 0.0.9 is not reused by ")


def test_initial_weights_and_splits_depend_on_the_seed_alone(small: ValidatedStudy) -> None:
    maker = CellMaker(make_study({**SMALL, "methods": "lbfgs@0.2+full,adam,srs@0.1,newton-cg"}))
    prepared = {
        (name, seed): prepare(maker.cell(name, 2.0, seed, None).config) for name in maker.methods for seed in (0, 1)
    }
    first = prepared["adam", 0]
    for (_, seed), (data, _, run) in prepared.items():
        same = torch.equal(run.model.flat.initial(), first.run.model.flat.initial())
        assert same == (seed == 0)
        assert torch.equal(data.dataset.train.inputs, first.data.dataset.train.inputs) == (seed == 0)


def test_a_failing_cell_is_recorded_and_tried_again(
    tmp_path: Path, small: ValidatedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: Any, **options: Any) -> Any:
        if config.seed == 1 and config.phase[-1].method == "adam":
            raise RuntimeError("the disk\nis on fire")
        return real(config, **options)

    real = cells_module.train
    monkeypatch.setattr(cells_module, "train", train)
    summary = run_comparison(small, tmp_path / "a")
    (failure,) = summary.failures
    assert failure.cell.startswith("adam-b2-s1-") and failure.error == "RuntimeError: the disk is on fire"
    assert [row.n for row in summary.results] == [2, 1]
    assert any("1 cell failed and is left out" in sentence for sentence in summary.verdict)
    monkeypatch.undo()
    assert not run_comparison(small, tmp_path / "a").failures


def test_a_setting_that_cannot_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="smaller than the number of classes"):
        run_comparison(make_study({**SMALL, "methods": "adam,lbfgs@0.001+full"}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds no study"):
        run_comparison(make_study(SMALL), tmp_path / "b")


def test_an_interrupted_study_goes_on(tmp_path: Path, small: ValidatedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cell(cell: Cell, *others: Any) -> CellOutcome:
        if len(seen) == 7:
            raise KeyboardInterrupt
        seen.append(cell.id)
        return real(cell, *others)

    seen: list[str] = []
    real = execution.run_cell
    monkeypatch.setattr(execution, "run_cell", run_cell)
    with pytest.raises(StudyInterrupted):
        run_comparison(small, tmp_path / "a")
    before = _times(tmp_path / "a")
    assert len(before) == 7
    monkeypatch.undo()
    run_comparison(small, tmp_path / "a")
    assert before.items() <= _times(tmp_path / "a").items()


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_request_to_stop_that_comes_too_late_for_a_cell_ends_the_study(
    tmp_path: Path, small: ValidatedStudy, monkeypatch: pytest.MonkeyPatch, status: Literal["done", "failed"]
) -> None:
    def run_cell(cell: Cell, *others: Any) -> CellOutcome:
        seen.append(cell.id)
        with StopRequest(Silent(), relayed=False).listening():
            os.kill(os.getpid(), signal.SIGTERM)
        return CellOutcome(status)

    seen: list[str] = []
    monkeypatch.setattr(execution, "run_cell", run_cell)
    with pytest.raises(StudyInterrupted):
        run_comparison(small, tmp_path / "a")
    assert len(seen) == 1


def test_a_killed_study_resumes_the_cell_it_was_in(tmp_path: Path, start_command: Callable[..., Any]) -> None:
    root = tmp_path / "a"
    settings = {**SMALL, "methods": "adam", "budget": "80", "tune": False, "checkpoint_seconds": 0.0}
    flags = [
        "--methods",
        "adam",
        "--budget",
        "80",
        "--no-tune",
        "--model",
        "linear",
        "--seeds",
        "2",
        "--checkpoint-seconds",
        "0",
        "--output",
        str(root),
    ]
    child = start_command("compare", *flags)
    deadline = time.monotonic() + 120
    while not any(_steps(cell) for cell in root.glob("cells/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.communicate()
    (begun,) = root.glob("cells/*")
    assert not (begun / RESULT).exists(), "killed in the middle of its first cell"
    steps = _steps(begun)
    created = _times(root, ENVIRONMENT)
    cell = CellMaker(make_study(settings)).cell("adam", 80.0, 0, None)
    assert cell.id == begun.name and steps > 0
    assert execution.run_cell(cell, root) == CellOutcome("done")
    assert _times(root, ENVIRONMENT) == created, "resumed, not begun anew"


@pytest.mark.slow
def test_worker_processes_give_the_same_results(
    tmp_path: Path, small: ValidatedStudy, finished: tuple[Path, dict[str, Any]]
) -> None:
    summary = run_comparison(small, tmp_path / "a", workers=Workers(2))
    expected = [row["values"] for row in finished[1]["results"]]
    assert [row.values for row in summary.results] == expected


def test_a_dask_cluster_of_two_processes_gives_the_same_results(
    tmp_path: Path, small: ValidatedStudy, finished: tuple[Path, dict[str, Any]]
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        workers = Workers(2, "dask", cluster.scheduler_address)
        summary = run_comparison(small, tmp_path / "a", workers=workers)
    assert [row.values for row in summary.results] == [row["values"] for row in finished[1]["results"]]


def test_a_cluster_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(UserError, match="needs its scheduler's address"):
        Workers(2, "dask")
    with pytest.raises(UserError, match="backend='dask'"):
        Workers(2, "loky", "tcp://host:1")


def test_a_budget_in_seconds_ends_the_runs_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the clock of this process's own work, which stands still while other processes have the cores."""
    monkeypatch.setattr(Clock.__init__, "__defaults__", (None, time.process_time))
    settings = {**SMALL, "budget": "0.6", "budget_unit": "seconds", "tune": False, "seeds": 1}
    summary = run_comparison(make_study(settings), tmp_path / "a")
    assert summary.budget_unit == "seconds"
    for row in summary.results:
        assert row.seconds_mean is not None
        assert row.seconds_mean < 2.0, row  # a step begun in time may end late
    assert (summary.results[1].seconds_mean or 0.0) > 0.5, "adam uses all of it; lbfgs may reach its minimum before"


@pytest.mark.parametrize("kept", [(ENVIRONMENT, "config.toml", ".lock"), (".lock",)], ids=["begun", "not begun"])
def test_a_cell_that_another_process_works_on_is_waited_for(
    kept: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study killed with its workers in a long step is begun again: its cells are no failures, nor lost."""
    root, study = tmp_path / "a", make_study({**SMALL, "methods": "adam", "tune": "none", "seeds": "1"})
    run_comparison(study, root)
    (cell,) = (root / "cells").iterdir()
    for path in cell.iterdir():
        if path.name not in kept:
            path.unlink()
    worker, told = ExitStack(), []
    worker.enter_context(RunDirectory(cell).sole_user())
    inode = (cell / ".lock").stat().st_ino

    class Told(SilentStudy):
        def message(self, text: str) -> None:
            told.append(text)

    def sleep(seconds: float) -> None:
        assert (cell / ".lock").stat().st_ino == inode
        worker.close()

    monkeypatch.setattr(execution.time, "sleep", sleep)
    run_comparison(study, root, progress=Told())
    assert [text.endswith("works there; waiting for it") for text in told if text.startswith(cell.name)] == [True]
    assert [row["status"] for row in csv.DictReader((root / "results.csv").open())] == ["done"]


def test_a_directory_in_use_is_not_cleared_for_a_cell(tmp_path: Path) -> None:
    maker = CellMaker(make_study({**SMALL, "tune": "none"}))
    cell = maker.cell("adam", 2, 0)
    cell.directory(tmp_path).mkdir(parents=True)
    with RunDirectory(cell.directory(tmp_path)).sole_user():
        outcome = cells_module.run_cell(cell, tmp_path)
        assert outcome.status == "failed" and "works there; wait for it" in outcome.error
        assert [path.name for path in cell.directory(tmp_path).iterdir()] == [".lock"]
    assert cells_module.run_cell(cell, tmp_path).status == "done"
