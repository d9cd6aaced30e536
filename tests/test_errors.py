"""Messages name a setting as the reader types it: keyword in Python, flag on the command line, key of a TOML file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from subsetopt.errors import (
    DataError,
    SettingError,
    SettingsConflictError,
    UserError,
    command_line,
    setting,
    unknown_name,
)


@pytest.mark.parametrize(
    ("name", "value", "keyword", "flag"),
    [
        ("image_size", 32, "image_size=32", "--image-size 32"),
        ("image_size", (24, 32), "image_size=(24, 32)", "--image-size 24,32"),
        ("task", "regression", "task='regression'", "--task regression"),
        ("stratify", False, "stratify=False", "--no-stratify"),
        ("stratify", True, "stratify=True", "--stratify"),
        ("max_iterations", None, "max_iterations=None", "--max-iterations none"),
        (
            "model_args",
            {"width": 64, "depth": 2},
            "model_args={'width': 64, 'depth': 2}",
            "--model-arg width=64 --model-arg depth=2",
        ),
    ],
)
def test_a_setting_is_spelled_for_its_reader(name: str, value: object, keyword: str, flag: str) -> None:
    assert setting(name, value) == keyword
    with command_line(["train"]):
        assert setting(name, value) == flag
    assert setting(name, value) == keyword


def test_a_name_alone() -> None:
    assert setting("data_file") == "data_file"
    with command_line([]):
        assert setting("data_file") == "--data-file" and setting("solver_args") == "--solver-arg"


@pytest.mark.parametrize("typed", [["train", "--subset-frac", "1.5"], ["train", "--subset-frac=1.5"]])
def test_the_wrong_setting_is_named_by_its_flag_where_that_was_typed(typed: list[str]) -> None:
    with command_line(typed):
        assert str(SettingError("subset_frac", "1.5", "too large")) == "--subset-frac 1.5: too large"
        assert str(SettingError("l2", -1.0, "too small")) == "l2 = -1.0: too small", "it stands in a TOML file"
        assert str(SettingError("subset_frac", "", "empty")) == "--subset-frac '': empty"
    assert str(SettingError("subset_frac", "1.5", "too large")) == "subset_frac = '1.5': too large"


def test_a_flag_that_was_not_typed_stands_alone() -> None:
    with command_line(["train", "--dataset", "table"]):
        error = SettingError(setting("data_file"), None, "the data set table is a file of yours", "name it")
        assert str(error) == "--data-file: the data set table is a file of yours; name it"
    assert str(SettingError(setting("data_file"), None, "not given")) == "data_file = None: not given"


def test_the_command_line_ends_with_its_errors() -> None:
    with pytest.raises(SettingError), command_line(["--l2", "x"]):
        raise SettingError("l2", "x", "no number")
    assert setting("l2", 1.0) == "l2=1.0"


@pytest.mark.parametrize(
    "error",
    [
        SettingError("subset_frac", 1.5, "must lie in (0, 1]", "try 0.1"),
        SettingsConflictError("grow and subsets exclude each other", "give one of them"),
        DataError("mine.npz: no such file"),
        unknown_name("solver", "lbgs", ["lbfgs", "ncg"]),
    ],
)
def test_errors_cross_process_borders_with_their_text(error: UserError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


@pytest.mark.parametrize(
    ("typed", "name", "value", "shown"),
    [
        (["--excess", "1e309"], "excess", float("inf"), "--excess 1e309"),
        (["--excess=1_0"], "excess", 10.0, "--excess 1_0"),
        (["--excess", "NaN"], "excess", float("nan"), "--excess NaN"),
        (["--fractions", "0.1, 5e-1"], "fractions", 0.5, "--fractions 5e-1"),
        (["--data-file", "a=b.csv"], "data_file", Path("a=b.csv"), "--data-file a=b.csv"),
        (["--output", ""], "output", Path(), "--output ''"),
        (["--output", "a"], "output", Path("a/result.json"), "output = 'a/result.json'"),
        (["--solver-arg", "memory=-0"], "memory", 0, "--solver-arg memory=-0"),
        (["--model-arg=width=4"], "width", 4, "--model-arg width=4"),
        (["--model-arg", "width=4"], "model_args", {"width": 4}, "--model-arg width=4"),
    ],
)
def test_a_value_is_shown_as_typed(typed: list[str], name: str, value: object, shown: str) -> None:
    with command_line(typed):
        assert str(SettingError(name, value, "is wrong")) == f"{shown}: is wrong"


@pytest.mark.parametrize(
    ("value", "known", "remedy"),
    [
        ("LBFGS", ["lbfgs", "scipy:BFGS"], "did you mean 'lbfgs'?"),
        ("newton_cg", ["newton-cg", "newton"], "did you mean 'newton-cg'?"),
        ("lr", ["handoff_lr", "solver", "warmup_lr"], "did you mean 'handoff_lr' or 'warmup_lr'?"),
        ("args", ["a_args", "b_args", "c_args", "d_args"], "did you mean 'd_args'?"),
        ("zzz", ["lbfgs", "ncg"], "choose one of lbfgs, ncg"),
    ],
)
def test_a_name_in_another_spelling_is_meant_before_one_that_looks_alike(
    value: str, known: list[str], remedy: str
) -> None:
    assert unknown_name("solver", value, known).remedy == remedy
