"""CPU seconds of claim 3's samplers at equal charged cost, which a busy machine does not falsify as it does wall-clock.

Run as `python reports/claims/overhead.py RUNS DATA`, DATA the folder of `prepare.py`: writes RUNS/overhead.csv, a row
per run. Runs alternate between the samplers in one process of one thread. The page takes off the CPU seconds of a run
with hardly any training, the least of all rounds: reading the data and building the model.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

ROUNDS = 7
PROBLEMS = (
    ("letter", "letter.npz", {"model": "mlp", "model_args": {"widths": [64]}}, 3),
    ("CIFAR-10", "cifar10-4000-half.npz", {"model": "cnn"}, 5),
)
SAMPLERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("srs@0.3", "srs", {}),
    ("nw-sketch@0.3", "nw-sketch", {}),
    ("p-sgd@0.3, weighted", "p-sgd", {"correction": "importance"}),
    ("selective-backprop@0.3", "selective-backprop", {}),
)
COLUMNS = ("data", "method", "round", "cpu_seconds", "start_cpu_seconds", "epoch_equivalents", "steps", "trained")


def run(
    data: Path, model: dict[str, Any], name: str, options: dict[str, Any], epochs: float
) -> tuple[float, dict[str, Any]]:
    """Return the CPU seconds of a run, and its result."""
    with TemporaryDirectory() as folder:
        settings = {
            "solver": "none",
            "handoff": name,
            "handoff_args": {"fraction": 0.3, **options},
            "max_epochs": epochs,
        }
        data_settings = {"dataset": "npz", "data_file": str(data), **model}
        config = make_config({**data_settings, **settings, "l2": 1e-3, "seed": 0, "output": Path(folder) / "run"})
        start = time.process_time()
        train(config, figure=False)
        seconds = time.process_time() - start
        return seconds, json.loads((Path(folder) / "run" / "result.json").read_text(encoding="utf-8"))


def main(runs: Path, data: Path) -> None:
    """Write overhead.csv."""
    torch.set_num_threads(1)
    with (runs / "overhead.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for title, archive, model, epochs in PROBLEMS:
            run(data / archive, model, "srs", {}, 0.05)  # whatever is done once in a process
            for number in range(ROUNDS):
                start, _ = run(data / archive, model, "srs", {}, 0.06)
                for shown, name, options in SAMPLERS:
                    seconds, result = run(data / archive, model, name, options, epochs)
                    steps, trained = result["handoff"]["iterations"], result["handoff"]["sampling"]["trained_samples"]
                    spent = f"{seconds:.4f}", f"{start:.4f}", f"{result['cost']['epoch_equivalents']:.4f}"
                    writer.writerow((title, shown, number, *spent, steps, trained))
                    file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
