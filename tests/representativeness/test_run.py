"""Subset minima against the closed form of ridge regression, and the study's files, reuse and figure."""

from __future__ import annotations

import csv
import errno
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsetopt.errors import UserError
from subsetopt.report.representativeness import FILE, representativeness_figure
from subsetopt.report.study.files import read_representativeness
from subsetopt.representativeness.run import Plan, run_representativeness
from subsetopt.study.directory import REPRESENTATIVENESS, open_study
from subsetopt.study.workers import Workers
from subsetopt.training.settings.run import RunConfig, make_config

L2 = 0.05


@pytest.fixture
def regression(tmp_path: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    y = x @ rng.normal(size=5) + 0.3 * rng.normal(size=400)
    np.savez(tmp_path / "r.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    return make_config(
        {
            "dataset": "npz",
            "data_file": tmp_path / "r.npz",
            "model": "linear",
            "l2": L2,
            "dtype": "float64",
            "gtol": 1e-9,
            "validation_fraction": 0.0,
            "normalize": "none",
        }
    )


def test_the_full_minimum_is_that_of_ridge_regression(regression: RunConfig, tmp_path: Path) -> None:
    run_representativeness(Plan(regression, (0.5,), 1), tmp_path / "a")
    data = np.load(tmp_path / "r.npz")
    a = np.column_stack([data["x_train"], np.ones(300)])
    # f(w) = mean (aw - y)^2 + l2/2 |w|^2; the model's bias is penalised like every parameter
    w = np.linalg.solve(2 * a.T @ a / 300 + L2 * np.eye(6), 2 * a.T @ data["y_train"] / 300)
    expected = np.mean((a @ w - data["y_train"]) ** 2) + 0.5 * L2 * w @ w
    with (tmp_path / "a" / "results.csv").open() as file:
        full = next(csv.DictReader(file))
    assert float(full["full_objective"]) == pytest.approx(expected, rel=1e-6)
    assert float(full["excess"]) == 1.0 and full["converged"] == "True"


def test_larger_subsets_stand_better_for_the_full_set(regression: RunConfig, tmp_path: Path) -> None:
    summary = run_representativeness(Plan(regression, (0.05, 0.2, 0.8), 4, (0, 1)), tmp_path / "a")
    excesses = [row.excess.mean for row in summary.results if row.excess is not None]
    assert len(excesses) == 4 and all(a > b >= 1.0 for a, b in pairwise(excesses))
    assert [row.samples for row in summary.results] == [15, 60, 240, 300]
    assert [row.n for row in summary.results] == [8, 8, 8, 2] and summary.interval_over == "seeds"
    read = read_representativeness(tmp_path / "a")
    assert read.model_copy(update={"digest": None}).content() == {**summary.content(), "digest": None}


def test_finished_minima_are_used_again_and_the_figure_is_drawn(regression: RunConfig, tmp_path: Path) -> None:
    run_representativeness(Plan(regression, (0.2,), 2), tmp_path / "a")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "cells").iterdir()}
    run_representativeness(Plan(regression, (0.2, 0.5), 2), tmp_path / "a")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "cells").iterdir()}
    assert before.items() <= after.items() and len(after) == 5
    assert representativeness_figure(tmp_path / "a") == tmp_path / "a" / FILE
    assert (tmp_path / "a" / FILE).read_bytes().startswith(b"\x89PNG")


def test_minima_of_another_version_are_found_anew_and_kept(regression: RunConfig, tmp_path: Path) -> None:
    plan, told = Plan(regression, (0.2,), 1), []
    before = run_representativeness(plan, tmp_path / "a")
    old, _ = sorted((tmp_path / "a" / "cells").iterdir())
    old.write_text(json.dumps({**json.loads(old.read_text()), "version": "0.0.9", "full_objective": 7.0}))
    again = run_representativeness(plan, tmp_path / "a", tell=lambda *what: told.append(what))
    for row, first in zip(again.results, before.results, strict=True):
        assert row.full_objective is not None and first.full_objective is not None
        assert row.full_objective.mean == pytest.approx(first.full_objective.mean, rel=1e-9)
    assert json.loads(old.with_name(f"{old.stem}-0.0.9.json").read_text())["full_objective"] == 7.0
    assert (
        told[0] == (0, 2, "1 cell of another version of subsetopt is not reused; kept under another name")
        and len(told) == 3
    )


@pytest.mark.parametrize(("seeds", "read"), [("11-13", (11, 12, 13)), (range(2, 4), (2, 3)), (2, (0, 1)), ([7], (7,))])
def test_a_plan_takes_seeds_as_every_study_does(regression: RunConfig, seeds: Any, read: tuple[int, ...]) -> None:
    assert Plan(regression, (0.2,), 1, seeds).seeds == read


@pytest.mark.parametrize("plan", [{"fractions": (1.5,)}, {"repeats": 0}, {"seeds": ()}])
def test_an_empty_or_impossible_plan_is_refused(plan: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Plan(RunConfig(), **plan)  # type: ignore[arg-type]  # wrong values on purpose


def test_minima_found_by_two_processes_are_the_same(regression: RunConfig, tmp_path: Path) -> None:
    plan = Plan(regression, (0.1, 0.5), 2, (0, 1))
    run_representativeness(plan, tmp_path / "one")
    run_representativeness(plan, tmp_path / "two", workers=Workers(2))
    rows = [list(csv.DictReader((tmp_path / name / "results.csv").open())) for name in ("one", "two")]
    assert [(row["seed"], row["fraction"], row["repeat"]) for row in rows[0]] == [
        (row["seed"], row["fraction"], row["repeat"]) for row in rows[1]
    ]
    # Where data lie in memory decides how sums are rounded.
    assert [float(row["full_objective"]) for row in rows[0]] == pytest.approx(
        [float(row["full_objective"]) for row in rows[1]], rel=1e-9
    )


def test_a_second_process_in_the_same_directory_is_refused(regression: RunConfig, tmp_path: Path) -> None:
    with open_study(tmp_path / "a", REPRESENTATIVENESS), pytest.raises(UserError, match=r"process.* works there"):
        run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")
    run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")


def test_a_study_on_a_full_disk_goes_on_by_the_same_command(
    regression: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study, or one of its minima, is nothing that `subsetopt resume` takes."""
    replace = Path.replace
    for suffix in (".json", ".csv"):

        def full(path: Path, target: Path, suffix: str = suffix) -> Path:
            if target.suffix == suffix:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match=r"No space left on device\); make room, then give the same command again"):
            run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")
    monkeypatch.undo()
    assert run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")


def test_what_a_killed_writer_left_is_removed_and_a_folder_in_place_of_a_minimum_named(
    regression: RunConfig, tmp_path: Path
) -> None:
    run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")
    (tmp_path / "a" / "cells" / ".f0.2.json.99999.tmp").write_text("half")
    (tmp_path / "a" / ".results.csv.99999.tmp").write_text("half")
    run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")
    assert not list((tmp_path / "a").rglob(".*.tmp"))
    cell = next((tmp_path / "a" / "cells").glob("f0.2-*.json"))
    cell.unlink()
    cell.mkdir()
    with pytest.raises(UserError, match=r"cannot be written \(Is a directory\); remove that folder, then go on"):
        run_representativeness(Plan(regression, (0.2,), 1), tmp_path / "a")
