"""`report` renders a study or a run again, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.study.study_fixture import summary, write_study


def test_a_study_gets_both_reports_and_its_verdict_on_the_terminal(cli: Any, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    outcome = cli("report", study)
    assert outcome.code == 0, outcome.err
    assert summary()["verdict"][0] in outcome.out
    assert (study / "report.html").exists() and (study / "report.md").exists()


def test_json_of_a_study_is_one_document_with_files_and_comparisons(cli: Any, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    document = cli("report", study, "--json").json
    assert document["kind"] == "study" and document["comparisons"] == summary()["comparisons"]
    assert document["files"] == [str(study / "report.html"), str(study / "report.md")]


def test_a_study_of_another_kind_gets_its_own_figure(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subsetopt.report import representativeness

    monkeypatch.setattr(representativeness, "representativeness_figure", lambda directory: directory / "drawn.png")
    (tmp_path / "summary.json").write_text('{"kind": "representativeness"}')
    document = cli("report", tmp_path, "--json").json
    assert (document["kind"], document["files"]) == ("representativeness", [str(tmp_path / "drawn.png")])
    assert not (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short real run on digits."""
    from subsetopt_cli.main import run

    directory = tmp_path_factory.mktemp("runs") / "digits"
    arguments = [
        "--subset-frac",
        "0.1",
        "--max-epochs",
        "1",
        "--handoff",
        "none",
        "--quiet",
        "--output",
        str(directory),
    ]
    assert run(["train", *arguments]) == 0
    return directory


def test_a_run_gets_its_figure_again_and_its_summary_is_printed(cli: Any, finished_run: Path) -> None:
    (finished_run / "loss.png").unlink()
    outcome = cli("report", finished_run)
    assert outcome.code == 0 and "Overdetermination ratio" in outcome.out
    assert (finished_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    document = cli("report", finished_run, "--json").json
    assert document["kind"] == "run"
    assert document["result"] == json.loads((finished_run / "result.json").read_text())


def test_mistakes_are_one_line(cli: Any, tmp_path: Path) -> None:
    assert "is not a directory" in cli("report", tmp_path / "nowhere").line
    assert "holds neither a study nor a run" in cli("report", tmp_path).line
    (tmp_path / "config.toml").write_text("")
    assert "has no result.json; finish it with `subsetopt resume" in cli("report", tmp_path).line
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    assert "result.json: seed: field required; finish it with" in cli("report", tmp_path).line
    (tmp_path / "study.toml").write_text("")
    outcome = cli("report", tmp_path)
    assert outcome.code == 2 and "has no summary.json; finish the study" in outcome.line
