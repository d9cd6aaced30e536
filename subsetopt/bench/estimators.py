"""The estimators beside scikit-learn's multilayer perceptron: `python -m subsetopt.bench.estimators OUT`.

Bundled sets, and tables of CSV files (`--data-dir`), whose words are one-hot encoded and whose gaps are imputed by
scikit-learn's transformers. The same split for all of a seed. Scores are accuracy or R2 on the rest; seconds are CPU
seconds of `fit`, taken by turns; at most `--rows` rows are fitted. `estimators_same_loss` compares equal objectives.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.base import is_classifier
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from subsetopt.bench.estimators_same_loss import Counted, markdown_same_loss, same_loss
from subsetopt.sklearn import SubsetClassifier, SubsetRegressor

BUNDLED: dict[str, Callable[..., Any]] = {
    "digits": datasets.load_digits,
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
}
TABLES = {  # file -> target
    "adult-train": "income",
    "letter": "class",
    "california_housing": "median_house_value",
    "protein": "y",
}
Rows = tuple[NDArray[Any], NDArray[Any]]


def bundled(name: str) -> Rows:
    """Return inputs and targets of one of scikit-learn's own sets."""
    X, y = BUNDLED[name](return_X_y=True)
    return X, y


def table(path: Path, target: str) -> Rows:
    """Return the columns of a CSV file with a header line as numbers, and the target column."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    names = [name for name in lines[0] if name != target]
    columns = [_numbers([line[name] for line in lines]) for name in names]
    words = [index for index, column in enumerate(columns) if column.dtype == object]
    numbers = [index for index in range(len(columns)) if index not in words]
    encode = make_column_transformer(
        (SimpleImputer(strategy="median"), numbers),
        (OneHotEncoder(min_frequency=20, handle_unknown="ignore", sparse_output=False), words),
    )
    X = np.empty((len(lines), len(columns)), dtype=object)
    for index, column in enumerate(columns):
        X[:, index] = column
    y = _numbers([line[target] for line in lines])
    return np.asarray(encode.fit_transform(X), dtype=np.float64), y if y.dtype != object else y.astype(str)


def _numbers(texts: list[str]) -> NDArray[Any]:
    try:
        return np.array([float(text) if text.strip() else np.nan for text in texts])
    except ValueError:
        return np.array(texts, dtype=object)


def contestants(classes: bool, seed: int) -> dict[str, Any]:
    """Return the fresh models of one comparison."""
    theirs = MLPClassifier if classes else MLPRegressor
    ours = SubsetClassifier if classes else SubsetRegressor
    return {
        "scikit-learn adam": make_pipeline(StandardScaler(), theirs(random_state=seed)),
        "scikit-learn lbfgs": make_pipeline(StandardScaler(), theirs(random_state=seed, solver="lbfgs")),
        "subsetopt": ours(random_state=seed),
    }


def measured(name: str, rows: Rows, seed: int, limit: int) -> Iterator[dict[str, Any]]:
    """Yield a record for each contestant on one split."""
    X, y = rows
    classes = name not in ("diabetes", "california_housing", "protein")
    size = min(limit, round(0.75 * len(X)))
    split = train_test_split(X, y, train_size=size, random_state=seed, stratify=y if classes else None)
    for label, model in contestants(classes, seed).items():
        last = model[-1] if hasattr(model, "steps") else model
        with warnings.catch_warnings(), Counted() as counted:
            warnings.simplefilter("ignore")
            begin = time.process_time()
            model.fit(split[0], split[2])
            seconds = time.process_time() - begin
        yield {
            "data": name,
            "model": label,
            "seed": seed,
            "rows": size,
            "features": X.shape[1],
            "score": float(model.score(split[1], split[3])),
            "cpu_seconds": round(seconds, 5),
            "evaluations": round(counted.rows / size, 2),
            "score_name": "accuracy" if is_classifier(last) else "R2",
        }


def markdown(records: list[dict[str, Any]]) -> str:
    """Return a table of means over seeds."""
    lines = ["| data | rows x features | model | score | CPU seconds | evaluations |", "|---|---|---|---:|---:|---:|"]
    for name in dict.fromkeys(record["data"] for record in records):
        own = [record for record in records if record["data"] == name]
        for label in dict.fromkeys(record["model"] for record in own):
            found = [record for record in own if record["model"] == label]
            scores = [record["score"] for record in found]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            seconds = statistics.median(record["cpu_seconds"] for record in found)
            evaluations = statistics.median(record["evaluations"] for record in found)
            shape = f"{found[0]['rows']} x {found[0]['features']}"
            score = f"{found[0]['score_name']} {statistics.mean(scores):.4f} ± {spread:.4f}"
            lines.append(f"| {name} | {shape} | {label} | {score} | {seconds:.3g} | {evaluations:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write records.json and table.md after each data set, and the same for equal objectives."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, help="folder with the CSV files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    cases: dict[str, Callable[[], Rows]] = {name: functools.partial(bundled, name) for name in BUNDLED}
    if given.data_dir is not None:
        cases |= {
            name: functools.partial(table, given.data_dir / f"{name}.csv", target) for name, target in TABLES.items()
        }
    for name, read in cases.items():
        rows = read()
        for seed in range(given.seeds):
            records += measured(name, rows, seed, given.rows)
        lines = ",\n".join(json.dumps(record) for record in records)
        (given.out / "records.json").write_text(f"[\n{lines}\n]\n")
        (given.out / "table.md").write_text(markdown(records))
        print(markdown([record for record in records if record["data"] == name]), flush=True)
    equal = [record for seed in range(given.seeds) for record in same_loss(seed)]
    (given.out / "same_loss.md").write_text(markdown_same_loss(equal))


if __name__ == "__main__":
    main()
