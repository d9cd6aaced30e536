"""`subsetopt verify` on a small run of the embedded digits: text, JSON, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SMALL = ("--model", "linear", "--subset-frac", "0.1", "--l2", "0.1", "--quiet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Softmax regression with L2: strictly convex, so what its solve ends in is a minimum."""
    from subsetopt_cli.main import run

    directory = tmp_path_factory.mktemp("verified") / "run"
    assert run(["train", "--output", str(directory), "--handoff-epochs", "2", *SMALL]) == 0
    return directory


def test_json_is_one_document_with_verdict_bounds_and_cost(cli: Any, finished: Path) -> None:
    document = cli("verify", finished, "--json", "--probes", "3").json
    assert document["directory"] == str(finished)
    assert document["verdict"] == "minimum" and document["phase"]["data"] == "subset"
    smallest = document["hessian"]["smallest"]
    assert smallest["lower"] <= 0.1 * (1 + 1e-9), "softmax regression is flat where all classes move alike: l2 alone"
    assert smallest["lower"] > 0 and smallest["value"] == pytest.approx(0.1, rel=1e-3)
    assert document["effective_dimension"]["probes"] == 3
    assert 0 < document["effective_dimension"]["value"] < document["parameters"]
    assert document["cost"]["by_purpose"]["product"]["calls"] > document["hessian"]["products"]


def test_text_says_verdict_bounds_l2_and_effective_dimension(cli: Any, finished: Path) -> None:
    outcome = cli("verify", finished)
    assert outcome.code == 0 and outcome.err == ""
    for words in (
        "Verdict: a minimum",
        "smallest eigenvalue",
        "largest eigenvalue",
        "condition number",
        "adds 0.1 to every eigenvalue",
        "Effective dimension",
        "Q = K·M/P",
        "the run computed in float32",
    ):
        assert words in " ".join(outcome.out.split()), words
    assert all(len(line) <= 96 for line in outcome.out.splitlines())


def test_on_full_and_a_gtol_out_of_reach(cli: Any, finished: Path) -> None:
    outcome = cli("verify", finished, "--on", "full", "--gtol", "1e-30", "--products", "20", "--probes", "2")
    assert outcome.code == 0 and "not stationary" in outcome.out and "the full training set" in outcome.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gtol", "0"], "--gtol 0: "),
        (["--gtol", "nan"], "--gtol nan: "),
        (["--damping", "-1"], "--damping -1: "),
        (["--probes", "1"], "--probes 1: "),
        (["--products", "0"], "--products 0: "),
        (["--device", "tpu"], "--device tpu: "),
        (["--on", "test"], "--on"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(cli: Any, finished: Path, flags: list[str], words: str) -> None:
    outcome = cli("verify", finished, *flags)
    assert outcome.code == 2 and words in outcome.line


def test_a_directory_that_is_no_run(cli: Any) -> None:
    assert cli("verify", "missing").code == 2
