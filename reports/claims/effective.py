"""Excess of subset minima on digits against Q and against the effective ratio: Q through subset, model size and L2.

Run as `python reports/claims/effective.py RUNS`: writes RUNS/effective.csv, a row per minimum; goes on where it ended.
Q = K M / P goes from 0.27 to 40. The effective ratio K / p and the predicted excess are those of `subsetopt ratio
--effective`, which sees the subset alone. F is the objective on all training data with its L2 term.
"""

from __future__ import annotations

import csv
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from subsetopt.analysis.effective_ratio import effective_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

PROBLEMS = ((16, 1e-2), (2, 1e-2), (4, 1e-2), (32, 1e-2), (16, 1e-1), (16, 1e-3))  # hidden units, L2
FRACTIONS = (0.05, 0.1, 0.2, 0.5)
SEEDS = (0, 1)
PROCESSES = 2
COLUMNS = ("width", "l2", "seed", "fraction", "samples", "ratio", "effective", "excess", "predicted", "stop")


def solved(width: int, l2: float, seed: int, fraction: float, folder: Path) -> Path:
    """Find the minimum of a subset, and return its run directory."""
    model = {"model": "mlp", "model_args": {"widths": [width]}, "dtype": "float64", "max_iterations": 3000}
    run = {"dataset": "digits", **model, "l2": l2, "seed": seed, "subset_frac": fraction, "handoff": "none"}
    output = folder / f"{fraction:g}"
    train(make_config({**run, "output": output}), figure=False)
    return output


def rows_of(width: int, l2: float, seed: int) -> list[tuple[object, ...]]:
    """Return the rows of one problem: every subset against the minimum of all data."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        best = effective_run(solved(width, l2, seed, 1.0, folder), rows=0).loss
        rows: list[tuple[object, ...]] = []
        for fraction in FRACTIONS:
            found = effective_run(solved(width, l2, seed, fraction, folder))
            ratios = found.ratio, found.effective_ratio
            excess = found.observed.loss_full / best - 1, found.predicted.excess / best
            rows.append((width, l2, seed, fraction, found.samples, *ratios, *excess, found.phase.stop_reason))
    return rows


def main(runs: Path) -> None:
    """Write what is missing of effective.csv."""
    target = runs / "effective.csv"
    there = set()
    if target.is_file():
        with target.open(newline="", encoding="utf-8") as file:
            there = {(int(row["width"]), float(row["l2"]), int(row["seed"])) for row in csv.DictReader(file)}
    else:
        target.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    missing = [(*problem, seed) for seed in SEEDS for problem in PROBLEMS if (*problem, seed) not in there]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(rows_of, *task) for task in missing]):
            with target.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(done.result())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
