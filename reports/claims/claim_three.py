"""The tables of claim 3: the differences of all data sets, and the overhead in CPU seconds at equal charged cost."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from layout import markdown, shown_interval, test_cells
from study import STUDIES, Values, read_csv, read_study

from subsetopt.study.statistics import compare_all

BASELINE = "srs@0.3"
Row = Mapping[str, str]


def pooled_table(*names: str) -> str:
    """The sketch less uniform sampling on every finished data set, and the mean over data sets, paired over seeds."""
    studies = [study for study in map(read_study, names) if study.rows]
    seeds = range(min(study.seeds for study in studies))
    pooled: Values = {"nw-sketch": dict.fromkeys(seeds, 0.0), BASELINE: dict.fromkeys(seeds, 0.0)}
    head = [
        "data",
        "sketch minus uniform, points",
        "95 % interval",
        "p of its own",
        "seen with 80 % power",
        "difference",
    ]
    lines = []
    for study in studies:
        (sketch,) = [method for method in study.methods if method.startswith("nw-sketch")]
        values = study.values("test_accuracy", None, [sketch, BASELINE])
        own = {"nw-sketch": values[sketch], BASELINE: values[BASELINE]}
        lines.append([study.name.split("-")[-1], *_difference(own)])
        for method, by_seed in own.items():
            for seed in seeds:
                pooled[method][seed] += by_seed[seed] / len(studies)
    lines.append([f"mean of the {len(studies)}", *_difference(pooled)])
    return markdown(head, lines)


def _difference(values: Values) -> list[str]:
    (test,) = compare_all(values, higher_is_better=True, baseline=BASELINE)
    difference, p, seen, mark = test_cells(test)
    return [difference, shown_interval(test.interval), p, seen, mark]


def overhead_table(*words: str) -> str:
    """CPU time of a step and of the training over that of uniform sampling: median of the rounds, and range."""
    rows = read_csv(STUDIES / "overhead.csv")
    if not rows:
        return "Under way: `python reports/claims/overhead.py`.\n"
    head = ["data", "method", "steps", "CPU ms per step", "of uniform's", "training / uniform's", "range over rounds"]
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        start = min(float(row["start_cpu_seconds"]) for row in own)
        uniform = _trainings(own, BASELINE, start)
        for method in dict.fromkeys(row["method"] for row in own):
            found = _trainings(own, method, start)
            both = sorted(uniform.keys() & found.keys())
            shares = [found[number][0] / uniform[number][0] for number in both]
            per_step = [found[number][0] / found[number][1] for number in both]
            of_uniform = [
                found[number][0] / found[number][1] * uniform[number][1] / uniform[number][0] for number in both
            ]
            cells = [f"{median(found[number][1] for number in both):.0f}", f"{1e3 * median(per_step):.2f}"]
            cells += [f"{median(of_uniform):.2f}", f"{median(shares):.2f}", f"{min(shares):.2f} to {max(shares):.2f}"]
            lines.append([data, f"`{method}`", *cells])
    return markdown(head, lines)


def _trainings(rows: list[Row], method: str, start: float) -> dict[str, tuple[float, float]]:
    """Return by round the CPU seconds of training, less those of the start, and the number of steps."""
    own = [row for row in rows if row["method"] == method]
    return {row["round"]: (float(row["cpu_seconds"]) - start, float(row["steps"])) for row in own}
