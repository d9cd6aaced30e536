"""`subsetopt compare` and `subsetopt study`: output, exit codes and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SMALL = ("--methods", "adam,sgd", "--budget", "0.3", "--seeds", "2", "--model", "linear", "--max-extensions", "0")


def test_compare_says_its_verdict_and_where_the_files_are(cli: Any) -> None:
    outcome = cli("compare", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "At 0.3 epoch-equivalents" in outcome.out and "Files in runs/compare-digits" in outcome.out
    assert "tuning, round 1: 12 cells" in outcome.err
    for name in ("report.html", "report.md", "results.csv", "curves.csv", "summary.json", "study.toml"):
        assert (Path("runs/compare-digits") / name).stat().st_size > 0
    again = cli("compare", "--config", "runs/compare-digits/study.toml", "--output", "runs/compare-digits", "--json")
    assert again.json["comparisons"][0]["verdict"] in ("better", "worse", "no difference")


def test_an_interrupted_study_says_how_to_go_on(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from subsetopt.compare import execution

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "run_cell", interrupted)
    outcome = cli("compare", *SMALL, "--quiet")
    assert outcome.code == 130 and "continue with the same command" in outcome.err and outcome.out == ""


def test_a_study_without_a_finished_cell_fails(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from subsetopt.compare import execution
    from subsetopt.compare.cells import CellOutcome

    monkeypatch.setattr(execution, "run_cell", lambda *_: CellOutcome("failed", "no room"))
    outcome = cli("compare", *SMALL, "--no-tune", "--quiet")
    assert outcome.code == 1 and outcome.err == "Error: every cell failed, the first one so: no room\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "adm"), "did you mean 'adam'?"),
        (("--budget", "-1"), "above 0"),
        (("--seeds", "0"), "at least 1"),
        (("--seeds", "13-11"), "--seeds 13-11: must be a number of seeds"),
        (("--tune", "l2"), "--tune l2: must be rate, or rate,l2, or none"),
        (("--tune", "rate", "--no-tune"), "give one of them"),
        (("--baseline", "sdg"), "did you mean 'sgd'?"),
        (("--tune", "rate,l2", "--l2", "0"), "--l2 0"),
        (("--jobs", "0"), "at least 1"),
        (("--backend", "dask"), "--scheduler"),
        (("--config", "compare-digts"), "did you mean 'compare-digits'?"),
        (("--dataset", "digts"), "did you mean 'digits'?"),
    ],
)
def test_a_mistake_is_one_line(cli: Any, arguments: tuple[str, ...], said: str) -> None:
    outcome = cli("compare", *arguments)
    assert outcome.code == 2 and said in outcome.line
    assert not Path("runs").exists()


def test_study_representativeness(cli: Any) -> None:
    arguments = ("--fractions", "0.1,0.5", "--repeats", "1", "--model", "linear", "--l2", "0.1", "--gtol", "1e-3")
    outcome = cli("study", "representativeness", *arguments, "--json")
    rows = outcome.json["results"]
    assert [row["fraction"] for row in rows] == [0.1, 0.5, 1.0] and rows[0]["excess"]["mean"] > 1
    assert (Path("runs/representativeness-digits") / "representativeness.png").is_file()
    assert "half" in cli("study", "representativeness", "--fractions", "half").line


def test_a_study_of_a_baseline_on_a_range_of_seeds_says_its_power(cli: Any) -> None:
    flags = ("--methods", "adam,sgd,srs@0.5", "--budget", "0.3", "--seeds", "11-13", "--no-tune", "--baseline", "sgd")
    outcome = cli("compare", *flags, "--model", "linear")
    assert outcome.code == 0, outcome.err
    assert "Against sgd, " in outcome.out and "with 80 % power is " in outcome.out
    assert "All methods minimise the same objective, L2 strength 0.001" in outcome.out
    page = Path("runs/compare-digits/report.md").read_text()
    assert "with 80 % power is" in page and "Seen with 80 % power" in page and "same objective" in page


def test_a_study_of_minima_takes_a_list_of_seeds(cli: Any) -> None:
    arguments = ("--fractions", "0.5", "--repeats", "1", "--model", "linear", "--l2", "0.1", "--gtol", "1e-2")
    outcome = cli("study", "representativeness", *arguments, "--seeds", "3,5-6", "--json")
    assert [row["n"] for row in outcome.json["results"]] == [3, 3]
    refused = cli("study", "representativeness", "--seeds", "0")
    assert refused.code == 2 and "--seeds 0: must be a number of seeds, at least 1" in refused.line
