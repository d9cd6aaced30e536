"""What a study of representativeness says: means over subsets and seeds, and the verdict in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from subsetopt.representativeness.minima import Minimum
from subsetopt.study.statistics import mean_interval
from subsetopt.training.context import PreparedRun

MEASURES = ("subset_objective", "full_objective", "excess", "train_loss", "test_loss", "test_metric")


def summarise(prepared: PreparedRun, rows: Sequence[Minimum], repeats: int, command: Sequence[str]) -> dict[str, Any]:
    """Return the content of summary.json from all minima; `prepared` is that of any seed."""
    data, _, run = prepared
    config, dataset, seeds = run.config, data.dataset, list(dict.fromkeys(row.seed for row in rows))
    fractions = sorted({row.fraction for row in rows})
    results = [_figures([row for row in rows if row.fraction == fraction]) for fraction in fractions]
    metric = "accuracy" if dataset.task == "classification" else "mse"
    return {
        "kind": "representativeness",
        "title": f"How far subset minima stand for the full set: {dataset.name}, {config.model}",
        "dataset": f"{dataset.name} ({len(dataset.train)} training samples)",
        "model": f"{config.model} with {run.model.flat.size} parameters",
        "parameters": run.model.flat.size,
        "outputs": dataset.n_outputs,
        "l2": config.l2,
        "solver": config.solver,
        "metric": metric,
        "seeds": seeds,
        "repeats": repeats,
        "interval_over": "seeds" if len(seeds) > 1 else "subsets",
        "results": results,
        "verdict": _sentences(results, metric),
        "command": list(command),
    }


def _figures(rows: Sequence[Minimum]) -> dict[str, Any]:
    """Return means over the subsets of one fraction; intervals over seeds, or over subsets where there is one seed."""
    figures: dict[str, Any] = {
        "fraction": rows[0].fraction,
        "samples": rows[0].samples,
        "ratio": rows[0].ratio,
        "n": len(rows),
        "converged": sum(row.converged for row in rows),
        "epoch_equivalents": mean(row.epoch_equivalents for row in rows),
    }
    seeds = sorted({row.seed for row in rows})
    for name in MEASURES:
        by_seed = [
            [value for row in rows if row.seed == seed if (value := getattr(row, name)) is not None] for seed in seeds
        ]
        if not all(by_seed):
            figures[name] = None
            continue
        groups = [mean(values) for values in by_seed] if len(seeds) > 1 else by_seed[0]
        every = [value for values in by_seed for value in values]
        figures[name] = {"mean": mean(groups), "interval": mean_interval(groups), "low": min(every), "high": max(every)}
    return figures


def _sentences(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    lines = []
    for row in results[:-1]:
        text = (
            f"Minima on {100 * row['fraction']:g} % of the data (K = {row['samples']}, Q = {row['ratio']:.3g}) have "
            f"{row['excess']['mean']:.3g} times the full minimum's objective on the full set"
        )
        quality = row["test_metric"]
        if quality is not None:
            value, best = quality["mean"], results[-1]["test_metric"]["mean"]
            shown = (
                (f"{100 * value:.2f} %", f"{100 * best:.2f} %")
                if metric == "accuracy"
                else (f"{value:.4g}", f"{best:.4g}")
            )
            text += f" and a test {metric} of {shown[0]} (full minimum: {shown[1]})"
        lines.append(f"{text}; {row['converged']} of {row['n']} reached the gradient test.")
    return lines
