"""What a study of representativeness says: means over subsets and seeds, and the verdict in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from subsetopt.documents.comparison import Metric
from subsetopt.documents.representativeness import FractionResult, Measure, RepresentativenessDocument
from subsetopt.representativeness.minima import Minimum
from subsetopt.study.statistics import mean_interval
from subsetopt.training.context import PreparedRun

MEASURES = ("subset_objective", "full_objective", "excess", "train_loss", "test_loss", "test_metric")


def summarise(
    prepared: PreparedRun, rows: Sequence[Minimum], repeats: int, command: Sequence[str]
) -> RepresentativenessDocument:
    """Return the content of summary.json from all minima; `prepared` is that of any seed."""
    data, _, run = prepared
    config, dataset, seeds = run.config, data.dataset, list(dict.fromkeys(row.seed for row in rows))
    fractions = sorted({row.fraction for row in rows})
    results = [_figures([row for row in rows if row.fraction == fraction]) for fraction in fractions]
    metric: Metric = "accuracy" if dataset.task == "classification" else "mse"
    return RepresentativenessDocument(
        kind="representativeness",
        title=f"How far subset minima stand for the full set: {dataset.name}, {config.model}",
        dataset=f"{dataset.name} ({len(dataset.train)} training samples)",
        model=f"{config.model} with {run.model.flat.size} parameters",
        parameters=run.model.flat.size,
        outputs=dataset.n_outputs,
        l2=config.one_strength,
        solver=config.solver,
        metric=metric,
        seeds=seeds,
        repeats=repeats,
        interval_over="seeds" if len(seeds) > 1 else "subsets",
        results=results,
        verdict=_sentences(results, metric),
        command=list(command),
    )


def _figures(rows: Sequence[Minimum]) -> FractionResult:
    """Return means over the subsets of one fraction; intervals over seeds, or over subsets where there is one seed."""
    return FractionResult(
        fraction=rows[0].fraction,
        samples=rows[0].samples,
        ratio=rows[0].ratio,
        n=len(rows),
        converged=sum(row.converged for row in rows),
        epoch_equivalents=mean(row.epoch_equivalents for row in rows),
        **{name: _measure(rows, name) for name in MEASURES},
    )


def _measure(rows: Sequence[Minimum], name: str) -> Measure | None:
    seeds = sorted({row.seed for row in rows})
    by_seed = [
        [value for row in rows if row.seed == seed if (value := getattr(row, name)) is not None] for seed in seeds
    ]
    if not all(by_seed):
        return None
    groups = [mean(values) for values in by_seed] if len(seeds) > 1 else by_seed[0]
    every = [value for values in by_seed for value in values]
    return Measure(mean=mean(groups), interval=mean_interval(groups), low=min(every), high=max(every))


def _sentences(results: Sequence[FractionResult], metric: str) -> list[str]:
    lines = []
    full = results[-1].test_metric
    for row in results[:-1]:
        text = f"Minima on {100 * row.fraction:g} % of the data (K = {row.samples}, Q = {row.ratio:.3g}) have "
        text += f"{_mean(row.excess)} times the full minimum's objective on the full set"
        if row.test_metric is not None and full is not None:
            shown = [
                f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4g}"
                for value in (row.test_metric.mean, full.mean)
                if value is not None
            ]
            text += f" and a test {metric} of {shown[0]} (full minimum: {shown[1]})" if len(shown) == 2 else ""
        lines.append(f"{text}; {row.converged} of {row.n} reached the gradient test.")
    return lines


def _mean(measure: Measure | None) -> str:
    return "an unknown number of" if measure is None or measure.mean is None else f"{measure.mean:.3g}"
