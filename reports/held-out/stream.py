"""The cells of `stream-cells.md`: kfac-stream as it is, beside Adam, SGD and SOAP with three rates each.

    python reports/held-out/stream.py held-out --data DATA > stream.csv

DATA holds MNIST and CIFAR-10 as `subsetopt train` loads them, `tabular/*.csv` (OpenML's and UCI's tables with a line of
names) and `text/tinyshakespeare.txt`. Rates are chosen by validation loss with seed 1000, results are test losses.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subsetopt.data import Dataset, dataset_from_arrays, load_dataset
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

RATES = {"adam": (1e-3, 3.16e-3, 1e-2), "sgd": (0.03, 0.1, 0.3), "soap": (3e-3, 1e-2, 3e-2)}
TUNING, SEEDS, L2 = 1000, (0, 1, 2), 1e-4
FIELDS = ["cell", "method", "seed", "rate", "loss", "calls", "cpu_seconds", "units", "parameters"]

Made = tuple[Dataset, str, dict[str, Any], float]
"""Data, model, its arguments and the budget in epoch-equivalents."""


def arrays(x: Any, y: Any, n: int, **settings: Any) -> Dataset:
    """Return a data set whose first n rows are for training, the others for the test."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    return dataset_from_arrays(x[:n], y[:n], x[n:], y[n:], **settings)


def drawn_labels(logits: Any, flipped: float, generator: np.random.Generator) -> Any:
    """Return labels from the softmax of the logits, a share of them replaced by any."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    y = (p.cumsum(1) > generator.random((len(p), 1))).argmax(1)
    replaced = generator.random(len(y)) < flipped
    y[replaced] = generator.integers(0, logits.shape[1], replaced.sum())
    return y


def teacher(n: int, d: int, binary: int, hidden: int, classes: int, scale: float, flipped: float, seed: int) -> Dataset:
    """A table with binary columns, labelled by a random network of one tanh layer."""
    g = np.random.default_rng(seed)
    x = g.standard_normal((n + 10000, d)).astype(np.float32)
    x[:, -binary:] = x[:, -binary:] > 1.0
    w, v = g.standard_normal((d, hidden)) * 2 / d**0.5, g.standard_normal((hidden, classes)) / hidden**0.5
    return arrays(x, drawn_labels(np.tanh(x @ w) @ v * scale, flipped, g), n, task="classification")


def products(n: int, d: int, pairs: int, classes: int, scale: float, seed: int) -> Dataset:
    """A table whose logits are sums of products of two columns each: nothing linear is to be learned."""
    g = np.random.default_rng(seed)
    x = g.standard_normal((n + 10000, d)).astype(np.float32)
    z = np.zeros((len(x), classes))
    for c in range(classes):
        for _ in range(pairs):
            i, j = g.choice(d, 2, replace=False)
            z[:, c] += g.standard_normal() * x[:, i] * x[:, j]
    return arrays(x, drawn_labels(z * scale / pairs**0.5, 0.0, g), n, task="classification")


def waves(n: int, seed: int, length: int = 64) -> Dataset:
    """Signals of eight classes, four frequencies times two envelopes, at random phases and places, in noise."""
    g, t = np.random.default_rng(seed), np.arange(length)
    y = g.integers(0, 8, n + 3000)
    place, phase = g.uniform(16, 48, len(y)), g.uniform(0, 2 * np.pi, len(y))
    width, frequency = np.where(y // 4 == 0, 6.0, 14.0), 0.08 + 0.05 * (y % 4)
    x = np.cos(2 * np.pi * frequency[:, None] * t + phase[:, None])
    x *= np.exp(-0.5 * ((t - place[:, None]) / width[:, None]) ** 2)
    x += 0.5 * g.standard_normal(x.shape)
    return arrays(x.astype(np.float32), y, n, task="classification")


def images(name: str, n: int, n_test: int, data: Path) -> Dataset:
    """The first rows of a shuffled built-in data set."""
    whole = load_dataset(name, data_dir=data, data_file=None, validation_fraction=0.0, seed=0, normalize="none")
    g = np.random.default_rng(0)
    parts = []
    for split, count in ((whole.train, n), (whole.test, n_test)):
        assert split is not None, "built-in data have a test split"
        rows = torch.as_tensor(g.permutation(len(split.inputs))[:count])
        parts += [split.inputs[rows], split.targets[rows]]
    return dataset_from_arrays(*parts)


def table(file: Path, target: str, n: int, n_test: int) -> Dataset:
    """Rows of a csv file in random order; words become one column each, gaps the mean."""
    with file.open() as lines:
        head, *rows = [row for row in csv.reader(lines) if row]
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(head)}
    labels = columns.pop(target)
    inputs = np.concatenate([numbers(column) for column in columns.values()], 1)
    inputs = np.where(np.isnan(inputs), np.nanmean(inputs, 0), inputs).astype(np.float32)
    words = sorted(set(labels))
    classes = len(words) <= 26
    y = np.searchsorted(words, labels) if classes else np.array(labels, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(rows))[: n + n_test]
    return arrays(inputs[order], y[order], n, task="classification" if classes else "regression")


def numbers(column: list[str]) -> Any:
    """Return a column as floats (n, 1), words as (n, words) of 0 and 1."""
    try:
        return np.array([float(cell) if cell else np.nan for cell in column])[:, None]
    except ValueError:
        return (np.array(column)[:, None] == np.array(sorted(set(column)))[None]).astype(float)


def text(file: Path, n: int, n_test: int, length: int = 32) -> Made:
    """The next letter after `length` letters."""
    letters = file.read_text()[:400000]
    vocabulary = sorted(set(letters))
    code = np.searchsorted(vocabulary, list(letters))
    at = np.random.default_rng(5).permutation(len(code) - length - 1)[: n + n_test]
    x = np.stack([code[i : i + length] for i in at])
    data = arrays(x, code[at + length], n, task="classification", n_classes=len(vocabulary))
    return data, "transformer", {"width": 32, "heads": 2, "depth": 1, "vocabulary": len(vocabulary)}, 2.0


def cells(data: Path) -> dict[str, dict[str, Callable[[], Made]]]:
    """Return the makers of all cells, by list and name."""
    from development import more_cells  # which takes tables from here
    from scarce import scarce_cells

    csvs, relu = data / "tabular", {"activation": "relu"}
    digits: dict[str, Any] = {
        "data_dir": None,
        "data_file": None,
        "validation_fraction": 0.1,
        "seed": 0,
        "normalize": "auto",
    }
    return {
        "development": {
            "digits, MLP": lambda: (load_dataset("digits", **digits), "mlp", {}, 3.0),
            "MNIST, tanh CNN": lambda: (images("mnist", 12000, 5000, data), "cnn", {}, 2.0),
            "table A": lambda: (teacher(40000, 54, 44, 40, 7, 2.0, 0.3, 1), "mlp", {"widths": (64,)}, 2.0),
            "products": lambda: (products(60000, 54, 3, 7, 2.0, 1), "mlp", {"widths": (128, 64), **relu}, 1.5),
            **more_cells(csvs),
        },
        "held-out": {
            "kin8nm": lambda: (table(csvs / "kin8nm.csv", "y", 6500, 1600), "mlp", {"widths": (32,)}, 3.0),
            "letter": lambda: (table(csvs / "letter.csv", "class", 16000, 4000), "mlp", {"widths": (64,)}, 3.0),
            "california": lambda: (
                table(csvs / "california_housing.csv", "median_house_value", 16000, 4500),
                "mlp",
                {"widths": (64, 32)},
                3.0,
            ),
            "adult": lambda: (table(csvs / "adult-train.csv", "income", 28000, 4500), "mlp", {"widths": (32,)}, 2.0),
            "protein": lambda: (
                table(csvs / "protein.csv", "y", 30000, 10000),
                "mlp",
                {"widths": (64, 64), **relu},
                3.0,
            ),
            "table B": lambda: (teacher(60000, 30, 10, 20, 4, 3.0, 0.2, 7), "mlp", {"widths": (64, 32), **relu}, 2.0),
            "waves": lambda: (waves(15000, 3), "cnn1d", relu, 2.0),
            "MNIST, ReLU MLP": lambda: (images("mnist", 15000, 5000, data), "mlp", {"widths": (64,), **relu}, 2.0),
            "tinyshakespeare": lambda: text(data / "text" / "tinyshakespeare.txt", 10000, 3000),
            "CIFAR-10, CNN": lambda: (images("cifar10", 10000, 3000, data), "cnn", relu, 2.0),
        },
        "scarce": scarce_cells(data),
    }


def run(made: Made, method: str, rate: float | None, seed: int, split: str) -> dict[str, Any]:
    """Train one model, and return a row."""
    data, model, arguments, units = made
    given: dict[str, Any] = {"solver": method, "solver_epochs": units, "handoff": "none"}
    if rate is not None:
        given = {"solver": "none", "handoff": method, "handoff_epochs": units, "handoff_lr": rate}
        given["handoff_schedule"] = "linear"
    settings = {"model": model, "model_args": arguments, "seed": seed, "max_epochs": units, "l2": L2, **given}
    start = time.process_time()
    result = train(make_config(settings), dataset=data, keep=False, splits=(split,), figure=False).result
    phase = result["phases"][-1]
    return {
        "method": method,
        "seed": seed,
        "rate": "" if rate is None else rate,
        "loss": round(result["metrics"][split]["loss"], 5),
        "calls": phase.get("sequential_calls", phase["counts"]["evaluations"]),
        "cpu_seconds": round(time.process_time() - start, 2),
        "units": round(result["cost"]["epoch_equivalents"], 3),
        "parameters": result["overdetermination"]["parameters"],
    }


def main() -> None:
    """Run a list, or the cells of it that are named, and print rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", choices=["development", "held-out", "scarce"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--methods", default="kfac-stream,adam,sgd,soap")
    given = parser.parse_args()
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    for name, make in cells(given.data)[given.list].items():
        if given.only not in name:
            continue
        made = make()
        for method in given.methods.split(","):
            rates: tuple[float | None, ...] = RATES.get(method, (None,))
            tried = [run(made, method, rate, TUNING, "validation") for rate in rates] if len(rates) > 1 else []
            best = min(tried, key=lambda row: row["loss"])["rate"] if tried else None
            for seed in SEEDS:
                writer.writerow({"cell": name, **run(made, method, best, seed, "test")})
                sys.stdout.flush()


if __name__ == "__main__":
    main()
