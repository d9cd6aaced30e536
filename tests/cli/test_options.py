"""The flags of `train` are RunConfig's fields: one source for names, texts, defaults and checks."""

from __future__ import annotations

from typing import Any

import click
import pytest
from pydantic import Field
from subsetopt_cli.commands.train import command as train
from subsetopt_cli.options import FILE_ONLY, given_settings, key_values, setting_options
from subsetopt_cli.presets import overrides

from subsetopt.errors import SettingError, flag_of
from subsetopt.training.settings.declaration import HEADINGS, declared
from subsetopt.training.settings.run import RunConfig, make_config

FIELDS = [name for name in RunConfig.model_fields if name not in FILE_ONLY]


def _option(name: str) -> click.Option:
    option = next(param for param in train.params if param.name == name)
    assert isinstance(option, click.Option)
    return option


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_flag_with_its_description(name: str) -> None:
    option = _option(name)
    assert option.opts[0] == flag_of(name)
    assert str(RunConfig.model_fields[name].description)[1:] in str(option.help)
    assert option.heading in HEADINGS  # type: ignore[attr-defined]  # HeadedOption


def test_no_flag_is_without_a_setting() -> None:
    assert {str(param.name) for param in train.params} - set(FIELDS) == {"config", "as_json", "quiet", "debug"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("l2", "[default: 0.001]"),
        ("dataset", "[default: digits]"),
        ("stratify", "[default: yes]"),
        ("subset_frac", "[default: 0.1]"),
        ("chunk_size", "[default: auto]"),
    ],
)
def test_defaults_are_shown_once(name: str, shown: str) -> None:
    assert str(_option(name).help).count("[default") == 1
    assert shown in str(_option(name).help)


def test_headings_follow_the_way_of_the_data(cli: Any) -> None:
    text = cli("train", "--help").out
    positions = [text.index(f"\n{heading}:\n") for heading in HEADINGS]
    assert positions == sorted(positions)


def test_a_field_added_to_the_configuration_becomes_a_flag() -> None:
    class Longer(RunConfig):
        warmup_batch_size: int = Field(
            64, description="batch size of the warm-up", json_schema_extra=declared("Warm-up", "method", "warmup")
        )

    option = setting_options(Longer)[-1]
    assert option.opts == ["--warmup-batch-size"]
    assert option.heading == "Warm-up"  # type: ignore[attr-defined]  # HeadedOption


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("64,32", [64, 32]),
        ("[64, 32]", [64, 32]),
        ("tanh", "tanh"),
        ("", ""),
        ("a=b", "a=b"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_key_value_texts_become_the_literals_they_look_like(text: str, value: Any) -> None:
    parsed = key_values("--model-arg", [f"key={text}"])["key"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["width", "=3", "two words=3"])
def test_key_value_text_without_key_or_sign_is_the_users_mistake(text: str) -> None:
    with pytest.raises(SettingError, match="not of the form key=value"):
        key_values("--model-arg", [text])


def test_a_key_given_twice_is_the_users_mistake() -> None:
    with pytest.raises(SettingError, match="given twice"):
        key_values("--model-arg", ["width=3", "width=4"])


def test_none_takes_back_a_number_but_stays_a_word_where_none_is_one() -> None:
    given = given_settings(RunConfig, {"max_iterations": "none", "handoff": "none", "solver": None, "model_args": ()})
    assert given == {"max_iterations": None, "handoff": "none"}
    assert make_config({"max_iterations": 5}, given).max_iterations is None


def test_flags_override_a_file_and_settings_of_another_model_are_dropped() -> None:
    base = {"model": "cnn", "model_args": {"width": 8}, "solver": "ncg", "solver_args": {"beta": "pr"}, "l2": 0.1}
    assert overrides(base, {"model": "mlp"}) == {"model": "mlp", "model_args": {}}
    assert overrides(base, {"model_args": {"depth": 2}}) == {"model_args": {"width": 8, "depth": 2}}
    assert overrides(base, {"l2": 0.5}) == {"l2": 0.5}
    assert overrides({"solver_args": {"memory": 5}}, {"solver": "lbfgs"})["solver_args"] == {"memory": 5}
