"""Compare two methods from Python: the same budget, tuning, seeds and initial weights, and a paired test."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from subsetopt.compare.config import make_study
from subsetopt.compare.run import run_comparison
from subsetopt.report.study.report import render_study


def main(output: Path | None = None) -> None:
    """Run L-BFGS on a subset and then on all data against Adam; the study and its page are kept in `output`."""
    study = make_study(
        {
            "dataset": "digits",
            "model": "linear",
            "l2": 1e-3,
            "methods": "lbfgs@0.2+full,adam",
            "budget": 2,
            "seeds": 3,
            "tune": True,  # each method's own setting, by the loss on held-out data, for each seed on a seed apart
        }
    )
    with TemporaryDirectory() as temporary:
        folder = output or Path(temporary)
        summary = run_comparison(study, folder)
        for row in summary.results:
            assert row.mean is not None and row.interval is not None, "a method with two seeds has both"
            low, high = row.interval
            print(f"{row.method}: test {row.metric} {row.mean:.4f} (95 %: {low:.4f} to {high:.4f})")
        for pair in summary.comparisons:
            print(f"{pair.a} against {pair.b}, {pair.metric}: {pair.verdict}, p = {pair.p_adjusted:.2g}")
        print(f"page: {render_study(folder).html.name}")


if __name__ == "__main__":
    main()
