"""Memory and processor time of kfac-stream beside Adam and SOAP as layers get wider.

    python reports/held-out/width.py memory w1448 embedding > memory.csv

`memory` is the peak of live tensors in a whole run, as torch's profiler counts them: exact, whatever else the machine
does. `cpu` is processor time per epoch-equivalent of runs by turns, medians of three. SOAP has a budget in which it
takes some steps: the first of them fills its factors alone. Data are random; the cells are those of `CELLS`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from stream import Made, arrays

from subsetopt.bench.counters import profiled_peak
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

CLASSES, TESTED, REPEATS = 10, 200, 3
METHODS = ("kfac-stream", "adam", "soap")
FIELDS = ["cell", "method", "parameters", "megabytes", "cpu_per_unit", "steps", "units"]


def mlp(width: int, inputs: int = 784, rows: int = 3000, units: float = 1.0, layers: int = 2) -> Made:
    """Rows of noise, and a network inputs-width-...-width-10."""
    x = torch.randn(rows + TESTED, inputs, generator=torch.Generator().manual_seed(0))
    return _data(x, rows), "mlp", {"widths": (width,) * layers, "activation": "relu"}, units


def tokens(width: int, words: int, length: int, depth: int, rows: int) -> Made:
    """Rows of random words, and a transformer."""
    x = torch.randint(0, words, (rows + TESTED, length), generator=torch.Generator().manual_seed(0))
    arguments = {"width": width, "heads": 2, "depth": depth, "vocabulary": words}
    return _data(x, rows), "transformer", arguments, 1.0


def pictures(widths: tuple[int, ...], rows: int, kernel: int = 0) -> Made:
    """Colour images of 32 x 32 points, and a network of so many convolutions; of 5 x 5 points by default."""
    x = torch.randn(rows + TESTED, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return _data(x, rows), "cnn", {"widths": widths, "activation": "relu", "kernel_size": kernel}, 1.0


def _data(x: torch.Tensor, rows: int) -> Any:
    y = torch.randint(0, CLASSES, (len(x),), generator=torch.Generator().manual_seed(1))
    return arrays(x, y, rows, task="classification")


CELLS: dict[str, Callable[[], Made]] = {
    **{f"w{width}": partial(mlp, width) for width in (64, 256, 724, 1024, 1448, 2048)},
    "one layer of 13": lambda: mlp(13, rows=9000, layers=1),
    "inputs of 3072": lambda: mlp(512, inputs=3072, units=2.0),
    "embedding": lambda: tokens(64, 20000, 16, 1, 4000),
    "attention": lambda: tokens(256, 100, 32, 2, 1500),
    "convolutions": lambda: pictures((32, 64), 2000),
    "wide convolutions": lambda: pictures((64, 256), 600),
    "wide convolutions, more rows": lambda: pictures((64, 256), 2000),
    "three convolutions": lambda: pictures((64, 128, 256), 2000, kernel=3),
}


def run(made: Made, method: str, units: float) -> dict[str, Any]:
    """Train one model, and return its result."""
    data, model, arguments, _ = made
    given: dict[str, Any] = {"solver": method, "solver_epochs": units, "handoff": "none"}
    if method != "kfac-stream":
        given = {"solver": "none", "handoff": method, "handoff_epochs": units, "handoff_lr": 1e-3}
    settings = {"model": model, "model_args": arguments, "seed": 0, "max_epochs": units, "l2": 1e-4, **given}
    return train(make_config(settings), dataset=data, keep=False, splits=("test",), figure=False).result


def rows_of(cell: str, what: str, soap_units: float) -> list[dict[str, Any]]:
    """Return a row for each method."""
    made = CELLS[cell]()
    rows, times = {}, {method: list[float]() for method in METHODS}
    for turn in range(REPEATS if what == "cpu" else 1):
        for method in METHODS if turn % 2 == 0 else METHODS[::-1]:
            units = made[3] * (soap_units if method == "soap" else 1.0)
            start = time.process_time()
            work, most = partial(run, made, method, units), 0
            if what == "memory":
                result, most = profiled_peak(work)
            else:
                result = work()
            times[method].append((time.process_time() - start) / result["cost"]["epoch_equivalents"])
            rows[method] = {
                "cell": cell,
                "method": method,
                "parameters": result["overdetermination"]["parameters"],
                "megabytes": round(most / 1e6, 1) if most else "",
                "steps": result["phases"][-1]["counts"]["evaluations"],
                "units": round(result["cost"]["epoch_equivalents"], 2),
            }
    if what == "cpu":
        for method, row in rows.items():
            row["cpu_per_unit"] = round(statistics.median(times[method]), 2)
    return list(rows.values())


def main() -> None:
    """Measure the cells that are named, all of them by default, and print rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "cpu"])
    parser.add_argument("cells", nargs="*", default=[*CELLS])
    parser.add_argument("--soap-units", type=float, default=12.0, help="SOAP's budget, in that of the others")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(mlp(64, inputs=16, rows=2000), "adam", 1.0)  # what is made once in a process is made here
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    for cell in given.cells:
        writer.writerows(rows_of(cell, given.what, given.soap_units))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
