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
    assert names == list(preset_files())


def test_a_file_of_the_same_name_goes_before_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config("digits")["dataset"] == "digits"
    Path("digits").write_text("l2 = 0.5")
    assert read_config("digits") == {"l2": 0.5}
