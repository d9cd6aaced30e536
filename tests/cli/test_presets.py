"""The shipped presets are valid configurations with a summary of their own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from subsetopt_cli.presets import preset_files, preset_summary, read_config

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import make_study
from subsetopt.training.settings.run import make_config


def test_there_is_one_preset_for_each_of_the_three_data_sets() -> None:
    assert {"digits", "mnist", "cifar10"} <= set(preset_files())


@pytest.mark.parametrize(("name", "path"), list(preset_files().items()))
def test_preset_is_valid_and_says_what_it_is_for(name: str, path: Path) -> None:
    config = make_config(tomllib.loads(path.read_text()))
    assert config.dataset == name
    assert config.output is None and config.data_dir is None, "places belong to the user"
    assert preset_summary(path).endswith(".")


@pytest.mark.parametrize(("name", "path"), list(preset_files("study").items()))
def test_preset_of_a_study_is_valid_and_says_what_it_is_for(name: str, path: Path) -> None:
    maker = CellMaker(make_study(tomllib.loads(path.read_text())))
    assert maker.methods and "data_dir" not in maker.study.shared
    assert preset_summary(path).endswith(".")


def test_list_presets_as_json(cli: Any) -> None:
    names = [entry["name"] for entry in cli("list", "presets", "--json").json]
    assert names == [*preset_files(), *preset_files("study")]


@pytest.mark.parametrize(("name", "path"), list({**preset_files(), **preset_files("study")}.items()))
def test_preset_says_how_it_is_run_and_where_its_data_come_from(name: str, path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    settings = tomllib.loads(path.read_text())
    assert f"# Run: subsetopt {'train' if name in preset_files() else 'compare'} --config {name}" in head
    if settings.get("data_file", "").startswith("claims-data/"):
        assert any("reports/claims/prepare.py" in line for line in head)
    elif settings["dataset"] != "digits":
        assert f"# Data: subsetopt download {settings['dataset']}" in head


@pytest.mark.parametrize(
    ("command", "name", "other"),
    [("train", "compare-digits", "compare"), ("train", "claim-4-mnist", "compare"), ("compare", "digits", "train")],
)
def test_a_preset_of_the_other_command_is_told_by_which_it_is_run(
    cli: Any, command: str, name: str, other: str
) -> None:
    result = cli(command, "--config", name)
    assert result.code == 2
    assert f"`subsetopt {other} --config {name}`" in result.line


def test_files_of_ones_own_are_told_apart_by_what_they_set(cli: Any, tmp_path: Path) -> None:
    run, study, shared = (tmp_path / f"{name}.toml" for name in ("run", "study", "shared"))
    run.write_text('solver = "ncg"\n')
    study.write_text('methods = ["sgd"]\nbudget = 1\n')
    shared.write_text('dataset = "digits"\n')
    assert f"subsetopt train --config {run}" in cli("compare", "--config", str(run)).line
    assert f"subsetopt compare --config {study}" in cli("train", "--config", str(study)).line
    for command in ("train", "compare"):
        assert read_config(str(shared), command) == {"dataset": "digits"}  # type: ignore[arg-type]
    study.write_text('methods = ["sgd"]\nsubset_frac = 0.5\n')
    assert "belongs to one method" in cli("compare", "--config", str(study)).line


def test_a_file_of_the_same_name_goes_before_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config("digits", "train")["dataset"] == "digits"
    Path("digits").write_text("l2 = 0.5")
    assert read_config("digits", "train") == {"l2": 0.5}
