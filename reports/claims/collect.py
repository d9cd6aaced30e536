"""Collect the claims' studies: what pages need of each into `studies/NAME`, then write tables and figures again.

Run as `python reports/claims/collect.py RUNS`, RUNS a folder with the directories of `subsetopt compare --output
RUNS/NAME` and, beside them, effective.csv of `effective.py` and overhead.csv of `overhead.py`. Finished studies are
copied: results.csv and study.toml as they are, what the sampler of every cell did, in sampling.csv, and for claim 1
what L-BFGS on all data and Adam had spent when they were as good as each subset minimum, in equal.csv. Of the others
`about.json` says how far they are.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import figures
import tables

HERE = Path(__file__).parent
COPIED = ("results.csv", "study.toml")
SAMPLED = "235"  # claims whose pages show what samplers did
EQUAL = ("method", "seed", "objective", "held_out", "cost", "lbfgs_objective", "lbfgs", "adam")
SAMPLING = ("method", "budget", "seed", "rows", "trained", "unique", "selection", "total")


def collect(runs: Path, studies: Path = HERE / "studies") -> None:
    """Copy what is finished and note how far the rest is; a study that has been collected before is written over."""
    for run in sorted(path for path in runs.glob("claim-*") if (path / "study.toml").is_file()):
        kept = studies / run.name
        summary = _json(run / "summary.json")
        done = summary is not None and not summary["failures"] and _complete(run)
        if not done and (kept / "results.csv").is_file():
            continue  # a finished one stays while more cells of it run
        kept.mkdir(parents=True, exist_ok=True)
        if done:
            for name in COPIED:
                shutil.copyfile(run / name, kept / name)
            if run.name[6] in SAMPLED:
                _write_sampling(run, kept)
            if run.name.startswith("claim-1-") and "-l2-" in run.name:
                _write_equal(run, runs / f"{run.name.partition('-l2-')[0]}-adam", kept)
        about = _about(run, summary if done else None)
        (kept / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for name in ("effective.csv", "overhead.csv"):
        if (runs / name).is_file():
            shutil.copyfile(runs / name, studies / name)


def _complete(run: Path) -> bool:
    """Whether results.csv has every cell that study.toml asks for: a study that was extended runs on."""
    if not (run / "results.csv").is_file():
        return False
    study = tomllib.loads((run / "study.toml").read_text(encoding="utf-8"))
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        return len(list(csv.DictReader(file))) == _cells({**study, "tune": []})


def _about(run: Path, summary: dict[str, Any] | None) -> dict[str, Any]:
    results = [result for path in _results(run) if (result := _json(path)) is not None]
    seconds = sum(result["cost"]["seconds"] for result in results)
    cost = sum(result["cost"]["epoch_equivalents"] for result in results)
    about: dict[str, Any] = {
        "finished": summary is not None,
        "cells": len(results),
        "of": _cells(tomllib.loads((run / "study.toml").read_text(encoding="utf-8"))),
        "seconds": round(seconds),
        "epoch_equivalents": round(cost),
    }
    if summary is not None:
        about |= {key: summary[key] for key in ("dataset", "model", "command", "machine", "versions")}
        about["command"] = " ".join(_portable(word) for word in about["command"])
        about["samples"], about["outputs"] = summary["data"]["train"], summary["data"]["n_outputs"]
        about["parameters"] = summary["architecture"]["parameters"]
    return about


def _portable(word: str) -> str:
    """Leave the folders of the machine out of a word of a command."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return path.stem if path.suffix == ".toml" else f"runs/{path.name}"


def _cells(study: dict[str, Any]) -> int:
    methods = len(study["methods"]) + len(study.get("method", ()))
    trials = 3 ** len(study["tune"]) + study["max_extensions"] if study["tune"] else 0
    return int(methods * len(study["budget"]) * len(study["seeds"]) * (1 + trials))


def _write_sampling(run: Path, kept: Path) -> None:
    rows = []
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            result = _json(run / "cells" / row["cell"] / "result.json")
            sampling = (result or {}).get("handoff") or {}
            if result is None or not sampling.get("sampling"):
                continue
            seen, cost = sampling["sampling"], result["cost"]
            selection = cost["by_purpose"].get("selection", {}).get("epoch_equivalents", 0.0)
            numbers = (sampling["samples"], seen["trained_samples"], seen["unique_samples"])
            spent = (f"{selection:.5g}", f"{cost['epoch_equivalents']:.5g}")
            rows.append((row["method"], row["budget"], row["seed"], *numbers, *spent))
    if rows:
        with (kept / "sampling.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([SAMPLING, *rows])


def _write_equal(run: Path, adam: Path, kept: Path) -> None:
    """Write the cost of every method, and of lbfgs and Adam where they are first as good.

    By the objective on all data, which lbfgs records at every evaluation, and by held-out loss, at their looks.
    """
    objective, held_out = _curve(run, "lbfgs", "train"), _curve(run, "lbfgs", "validation")
    of_adam = _curve(adam, "adam", "validation")
    rows = []
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            full, loss, seed = float(row["objective"]), float(row["validation_loss"]), row["seed"]
            by_loss = _reached(held_out[seed], loss), _reached(of_adam.get(seed, []), loss)
            own = f"{full:.6g}", f"{loss:.6g}", f"{float(row['epoch_equivalents']):.5g}"
            rows.append((row["method"], seed, *own, _reached(objective[seed], full), *by_loss))
    with (kept / "equal.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([EQUAL, *rows])


def _curve(run: Path, method: str, kind: str) -> dict[str, list[tuple[float, float]]]:
    """Return (cost, loss) of a method by seed, in order."""
    found: dict[str, list[tuple[float, float]]] = {}
    if (run / "curves.csv").is_file():
        with (run / "curves.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["method"] == method and row["kind"] == kind:
                    found.setdefault(row["seed"], []).append((float(row["epoch_equivalents"]), float(row["loss"])))
    return found


def _reached(curve: list[tuple[float, float]], loss: float) -> str:
    return next((f"{cost:.5g}" for cost, own in curve if own <= loss), "")


def _results(run: Path) -> Iterator[Path]:
    for part in ("cells", "tuning"):
        yield from sorted((run / part).glob("*/result.json"))


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
    figures.draw_all()
    tables.write_pages()
