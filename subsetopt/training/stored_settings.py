"""The settings of a run as config.toml keeps them, and their way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from subsetopt.errors import RunDirectoryError
from subsetopt.training.run_directory import (
    CONFIG,
    RunDirectory,
)
from subsetopt.training.settings.run import RunConfig, make_config, read_toml

FOREIGN = "(given as an object)"


def as_given(config: RunConfig, model: nn.Module | None, dataset: object) -> RunConfig:
    """Record in the configuration that objects replace the named model or data set."""
    changes: dict[str, Any] = {}
    if model is not None:
        changes |= {"model": FOREIGN, "model_args": {}}
    if dataset is not None:
        changes["dataset"] = FOREIGN
    return config.model_copy(update=changes)


def stored_settings(config: RunConfig) -> dict[str, Any]:
    content = config.model_dump(mode="json", exclude={"output"})
    if config.max_iterations is None:
        content["max_iterations"] = "none"  # TOML has no null, and without a line the default would hold
    if config.data_dir is not None:
        content["data_dir"] = str(config.data_dir.absolute())
    if config.data_file is not None:
        content["data_file"] = str(config.data_file.absolute())
    if config.test_file is not None:
        content["test_file"] = str(config.test_file.absolute())
    if config.init_from is not None:
        content["init_from"] = str(config.init_from.absolute())
    return content


def load_config(
    directory: RunDirectory,
    model: nn.Module | None,
    dataset: object,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read the settings of a run; raises `RunDirectoryError` where it was given objects that are missing now."""
    config = make_config(read_toml(directory.path / CONFIG), overrides or {})
    for given, name, what in ((model, config.model, "model"), (dataset, config.dataset, "dataset")):
        if given is None and name == FOREIGN:
            raise RunDirectoryError(
                f"run = {str(directory.path)!r}: its {what} was a Python object; "
                f"use SubsetTrainer.resume(path, {what}=...)"
            )
    return config
