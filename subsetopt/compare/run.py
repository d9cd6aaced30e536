"""A comparison from its settings to its files: check, tune, run every cell, test, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from subsetopt.compare.cells import Cell, CellMaker, CellOutcome, of_method
from subsetopt.compare.config import ValidatedStudy
from subsetopt.compare.curves import Point, point_row
from subsetopt.compare.execution import SilentStudy, StudyProgress, run_cells
from subsetopt.compare.summary import RESULT_COLUMNS, collect, summarise
from subsetopt.compare.tuning import RunCells, tune
from subsetopt.compare.unused import unused_notes
from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.errors import SettingError
from subsetopt.files import sealed
from subsetopt.report.study.files import CURVES, STUDY, SUMMARY
from subsetopt.study.contents import require_same
from subsetopt.study.directory import COMPARISON, RESULTS, open_study, write_csv
from subsetopt.study.workers import Workers
from subsetopt.training.context import PreparedRun
from subsetopt.training.run import check_run
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.splits import SplitName


def run_comparison(
    study: ValidatedStudy,
    output: Path | str,
    *,
    workers: Workers | None = None,
    progress: StudyProgress | None = None,
    command: Sequence[str] = (),
) -> ComparisonDocument:
    """Run what is missing of `study` in `output`, write its files and return what summary.json holds.

    Finished cells in `output` are reused, unfinished ones resumed; a cell that fails is recorded
    and does not stop the others. Raises `UserError` before any work for settings that cannot be run, and
    `StudyInterrupted` when asked to stop.
    """
    workers, progress, output = workers or Workers(), progress or SilentStudy(), Path(output)
    maker = CellMaker(study)
    prepared = check_study(maker)
    for note in unused_notes(maker):
        progress.message(f"Warning: {note}")

    def run(title: str, cells: Sequence[Cell]) -> dict[str, CellOutcome]:
        return run_cells(title, cells, output, workers, progress)

    with open_study(output, COMPARISON) as directory:
        require_same(directory, prepared)
        directory.write_toml(STUDY, study.to_toml())
        return _compare(maker, output, directory, run, command)


def _compare(
    maker: CellMaker, output: Path, directory: RunDirectory, run: RunCells, command: Sequence[str]
) -> ComparisonDocument:
    """Tune, run, test and write; see `run_comparison`."""
    searches = tune(maker, output, run)
    config = maker.study.config
    cells = [
        maker.cell(name, budget, seed, searches[name, budget, seed].values)
        for seed in config.seeds  # seed by seed, so that an interrupted study has something of every method
        for budget in config.budget
        for name in maker.methods
    ]
    outcomes = run("comparison", cells)
    order = sorted(cells, key=lambda cell: (config.budget.index(cell.budget), list(maker.methods).index(cell.method)))
    findings = collect(order, outcomes, searches, output)
    summary = summarise(maker, searches, findings, command)
    write_csv(directory, RESULTS, RESULT_COLUMNS, findings.rows)
    write_csv(directory, CURVES, [field.name for field in fields(Point)], map(point_row, findings.points))
    directory.write_json(SUMMARY, sealed(summary.content()))
    return summary


def check_study(maker: CellMaker) -> PreparedRun:
    """Raise `UserError` for settings that no run could start with, before anything is written or trained.

    Return data and model of the first cell.
    """
    config = maker.study.config
    first: PreparedRun | None = None
    for name in maker.methods:
        try:
            prepared = check_run(maker.cell(name, min(config.budget), config.seeds[0]).config, may_idle=True)
        except SettingError as error:
            raise of_method(maker.methods[name], error) from None
        if not prepared.data.samples(SplitName.TEST):
            raise SettingError(
                "dataset", prepared.data.dataset.name, "has no test data to compare on", "add a test split"
            )
        for budget in config.budget:
            maker.cell(name, budget, config.seeds[0])
        first = first or prepared
    assert first is not None, "a study has a method"
    return first
