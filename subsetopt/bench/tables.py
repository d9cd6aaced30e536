"""The document of `run_bench` as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subsetopt.report.table import text_table

LINE_SEARCH = ("lbfgs", "lbfgs-10", "scipy:L-BFGS-B", "torch:lbfgs", "torch:lbfgs-10", "torchmin:l-bfgs")
GRADIENT = ("ncg", "scipy:CG", "torchmin:cg")
NEWTON = ("newton-cg", "scipy:trust-ncg", "scipy:Newton-CG", "torchmin:trust-ncg")
MEBIBYTE = 2**20
Row = Mapping[str, Any]


@dataclass(frozen=True)
class BenchTable:
    """A heading, what its numbers mean, and rows of text; the first row holds the column headings."""

    title: str
    note: str
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return it for a terminal."""
        return "\n".join([self.title, *text_table(self.rows), *([f"  {self.note}"] if self.note else [])])

    def markdown(self) -> str:
        """Return it for Markdown."""
        head, *body = self.rows
        rule = ["---"] + ["---:"] * (len(head) - 1)
        lines = [f"| {' | '.join(row)} |" for row in [head, rule, *body]]
        return "\n".join([f"## {self.title}", "", *([self.note, ""] if self.note else []), *lines])


def tables(document: Mapping[str, Any]) -> list[BenchTable]:
    """Return the tables of the parts that were measured."""
    makers: dict[str, Callable[[Any], Iterator[BenchTable]]] = {
        "solvers": _solvers,
        "products": _products,
        "overhead": _overhead,
        "time": _time,
        "algebra": _algebra,
        "scaling": _scaling,
    }
    return [table for part, make in makers.items() if part in document for table in make(document[part])]


def describe(document: Mapping[str, Any]) -> str:
    """Return one line on the machine and the data."""
    where = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version is not None)
    load = "" if where["load"] is None else f", load {where['load']:.1f}"
    return (
        f"subsetopt {document['version']} on {where['processor']}, "
        f"{where['threads']} threads, {where['device']}{load}; "
        f"{versions}; images: {document['data']}; {document['clock']} time, "
        f"medians of {document['repeats']} (solves beyond 2 s: one); "
        f"{document['seconds']:.0f} s in all"
    )


def _solvers(part: Row) -> Iterator[BenchTable]:
    rows = {(row["problem"], row["solver"]): row for row in part["rows"]}
    goal = f"max|g| <= {part['gtol']:g}, float64"
    failed = "A dash marks a solve that ended elsewhere or took too many calls."
    yield BenchTable(
        f"Evaluations of loss and gradient to {goal}", failed, _grid(rows, LINE_SEARCH + GRADIENT, _evaluations)
    )
    priced = f"Evaluations + Hessian products = gradient-equivalents at the measured price of a product. {failed}"
    yield BenchTable(f"Newton's methods to {goal}", priced, _grid(rows, NEWTON, _priced))
    yield BenchTable(
        f"Seconds to {goal}", failed, _grid(rows, LINE_SEARCH[:1] + LINE_SEARCH[2:4] + NEWTON[:2], _seconds)
    )
    note = "Ratios of ours to the better of the peers, over the problems where both succeed; below 1 we need less."
    yield BenchTable("Geometric means", note, [_MEANS, *map(_mean, part["geometric_means"])])
    note = "Scalars that the host waits for; bytes of tensors made in the first iterations. scipy works on the host."
    yield BenchTable("Synchronisations and memory", note, [_OBSERVED, *map(_observed, part["instrumented"])])


def _grid(rows: Mapping[tuple[str, str], Row], solvers: Sequence[str], cell: Callable[[Row], str]) -> list[list[str]]:
    present = [name for name in solvers if any(solver == name for _, solver in rows)]
    problems = dict.fromkeys(problem for problem, _ in rows)
    body = [[problem, *[_cell(rows.get((problem, name)), cell) for name in present]] for problem in problems]
    return [["problem", *present], *body]


def _cell(row: Row | None, cell: Callable[[Row], str]) -> str:
    if row is None:
        return ""
    return cell(row) if row["success"] else "-"


def _evaluations(row: Row) -> str:
    return str(row["evaluations"])


def _priced(row: Row) -> str:
    return f"{row['evaluations']} + {row['products']} = {row['gradient_equivalents']:.0f}"


def _seconds(row: Row) -> str:
    return f"{row['seconds']:.3g}"


_MEANS = ["ours", "peers", "unit", "mean ratio", "problems", "ours failed", "peers failed"]


def _mean(row: Row) -> list[str]:
    mean = "-" if row["mean"] is None else f"{row['mean']:.3f}"
    failed = [len(row["failed"][name]) for name in (row["ours"], *row["peers"])]
    peers = " / ".join(map(str, failed[1:]))
    return [
        row["ours"],
        " / ".join(row["peers"]),
        row["unit"].replace("_", "-"),
        mean,
        str(len(row["ratios"])),
        str(failed[0]),
        peers,
    ]


_OBSERVED = ["problem", "solver", "iterations", "calls", "per iteration", "per call", "peak bytes"]


def _observed(row: Row) -> list[str]:
    calls = row["evaluations"] + row["products"]
    per = [row[f"synchronisations_per_{unit}"] for unit in ("iteration", "call")]
    shown = ["-" if value is None else f"{value:.1f}" for value in per]
    peak = "-" if row["peak_bytes"] is None else str(row["peak_bytes"])
    return [row["problem"], row["solver"], str(row["iterations"]), str(calls), *shown, peak]


def _products(part: Sequence[Row]) -> Iterator[BenchTable]:
    head = ["model", "P", "samples", "gradient ms", "hvp", "ggnvp", "linearise"]
    head += ["counted hvp", "counted ggnvp", "MiB hvp", "MiB ggnvp", "data"]
    body = [
        [
            row["model"],
            str(row["parameters"]),
            str(row["samples"]),
            f"{1000 * row['gradient_seconds']:.1f}",
            *[f"{row['ratios'][kind]:.2f}" for kind in ("hvp", "ggnvp", "linearise")],
            *[f"{row['contractions'][kind]:.2f}" for kind in ("hvp", "ggnvp")],
            *[f"{row['graph_bytes'][kind] / MEBIBYTE:.0f}" for kind in ("hvp", "ggnvp")],
            row["data"],
        ]
        for row in part
    ]
    note = (
        "Time of a product at fixed w, graphs stored, in gradients; `linearise` records them once per w; float32. "
        "`counted` are products of matrices and convolutions alone."
    )
    yield BenchTable("Prices of curvature products", note, [head, *body])


def _overhead(part: Row) -> Iterator[BenchTable]:
    head = ["solver", "evaluations", "ms per evaluation", "overhead"]
    body = [
        [
            row["solver"],
            str(row["evaluations"]),
            f"{1000 * row['seconds_per_evaluation']:.1f}",
            f"{100 * row['overhead']:.2f} %",
        ]
        for row in part["rows"]
    ]
    note = "Time of a solve outside loss and gradient, relative to the time inside; float32."
    yield BenchTable(f"Overhead: cnn on {part['samples']} images ({part['data']})", note, [head, *body])


def _time(part: Row) -> Iterator[BenchTable]:
    levels = [f"{100 * level:g} %" for level in part["levels"]]
    body = [[row["solver"], *[_reached(entry) for entry in row["to"]]] for row in part["rows"]]
    note = (
        f"Seconds (calls) until the loss is within so much of {part['lowest_loss']:.6g}, the lowest reached by any in "
        f"{part['calls']} calls; a call is a loss with its gradient, or a product."
    )
    title = f"Time to a loss: cnn on {part['samples']} images ({part['data']}), float32"
    yield BenchTable(title, note, [["solver", *levels], *body])


def _algebra(part: Sequence[Row]) -> Iterator[BenchTable]:
    names = list(part[0]["seconds"])
    head = ["problem", "dtype", "P", "pairs", *[f"us {name}" for name in names], *[f"/ {name}" for name in names[1:]]]
    body = [
        [
            row["problem"],
            row["dtype"],
            f"{row['parameters']:.0e}".replace("e+0", "e"),
            str(row["pairs"]),
            *[f"{1e6 * row['seconds'][name]:.0f}" for name in names],
            *["{:.2f} ({:.2f} to {:.2f})".format(*row["ratios"][name]) for name in names[1:]],
        ]
        for row in part
    ]
    note = "Time per evaluation outside loss and gradient, medians; ratios of ours by turns: median, least, most."
    yield BenchTable("Algebra of L-BFGS", note, [head, *body])


def _scaling(part: Row) -> Iterator[BenchTable]:
    head = [
        "scaling",
        "clock",
        "ms one process",
        f"ms {part['processes']} processes",
        "efficiency",
        "least to most",
        "beside apart",
    ]
    body = [
        [
            row["kind"],
            row["clock"],
            f"{1000 * row['seconds_one']:.0f}",
            f"{1000 * row['seconds']:.0f}",
            f"{row['efficiency']:.3f}",
            f"{row['efficiency_least']:.3f} to {row['efficiency_most']:.3f}",
            f"{row['of_what_the_machine_allows']:.3f}",
        ]
        for row in part["rows"]
    ]
    note = (
        f"One loss with its gradient, float32, one thread per process, {part['collective_bytes']} bytes in one "
        f"collective. strong: {part['samples']} samples shared; weak: {part['samples']} per process; "
        "apart: as many, but nothing shared or added up, which is what the machine allows. Medians of turns, of "
        "efficiency and of its ratio to that of apart, too; the slowest process counts; cpu is processor time, in "
        "which waiting is free."
    )
    yield BenchTable(f"Scaling: cnn (P = {part['parameters']}) on {part['data']}", note, [head, *body])


def _reached(entry: Row | None) -> str:
    return "-" if entry is None else f"{entry['seconds']:.2f} ({entry['calls']})"
