"""The settings of a run as config.toml keeps them, and their way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from subsetopt.errors import RunDirectoryError
from subsetopt.training.going_on import FOREIGN
from subsetopt.training.run_directory import (
    CONFIG,
    RunDirectory,
)
from subsetopt.training.settings.run import RunConfig, make_config, read_toml


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
    given = (("model", config.model, model), ("dataset", config.dataset, dataset))
    objects = [what for what, name, _ in given if name == FOREIGN]
    missing = [what for what, name, now in given if name == FOREIGN and now is None]
    if missing:
        calls = ", ".join(f"{what}=..." for what in objects)
        were = "was a Python object" if len(missing) == 1 else "were Python objects"
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: its {' and '.join(missing)} {were}; "
            f"give {' and '.join(missing)} in Python, as in SubsetTrainer.resume(path, {calls})"
        )
    return config
