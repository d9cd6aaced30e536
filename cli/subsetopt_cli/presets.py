"""Find the TOML presets: inside the installed package, or in `configs/` of a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import subsetopt
from subsetopt.errors import SettingError, unknown_name


def preset_files(kind: Literal["run", "study"] = "run") -> dict[str, Path]:
    """Return the shipped presets by name: those of `train`, or those of `compare`, named compare-* and claim-*."""
    package = Path(subsetopt.__file__).parent
    folder = next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)
    paths = sorted(folder.glob("*.toml"))
    return {path.stem: path for path in paths if path.stem.startswith(("compare-", "claim-")) == (kind == "study")}


def preset_summary(path: Path) -> str:
    """Return the first comment line of a preset, which says what it is for."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def read_config(text: str, command: Literal["train", "compare"]) -> dict[str, Any]:
    """Read a TOML file, or the preset of that name, for a command.

    Raises `SettingError` when there is neither, and where it is one for the other command.
    """
    from subsetopt.training.settings.run import read_toml

    path = Path(text)
    presets = {**preset_files(), **preset_files("study")}
    if text in presets and not path.is_file():
        path = presets[text]
    elif not path.exists() and path.suffix == "" and len(path.parts) == 1:
        raise unknown_name("config", text, presets)
    settings = read_toml(path)
    if command == "train":
        _require_run(text, settings)
    else:
        _require_study(text, settings)
    return settings


def _require_run(text: str, settings: Mapping[str, Any]) -> None:
    from subsetopt.training.settings.run import RunConfig

    unknown = [key for key in settings if key not in RunConfig.model_fields]
    if not unknown:
        return
    from subsetopt.compare.config import StudyConfig

    found = [key for key in unknown if key in StudyConfig.model_fields]
    if found:
        problem = f"is a study of several methods ({', '.join(found[:3])}), not the settings of one run"
        raise SettingError("config", text, problem, f"use `subsetopt compare --config {text}`")


def _require_study(text: str, settings: Mapping[str, Any]) -> None:
    from subsetopt.compare.config import StudyConfig
    from subsetopt.training.settings.declaration import names_of
    from subsetopt.training.settings.run import RunConfig

    own = names_of(RunConfig, owner="method")
    found = [key for key in settings if key in own]
    if found and not any(key in StudyConfig.model_fields for key in settings):
        problem = f"has the settings of one run ({', '.join(found[:3])}), not a study of several methods"
        remedy = f"use `subsetopt train --config {text}`, or name the methods and their data on the command line"
        raise SettingError("config", text, problem, remedy)


def overrides(base: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags as a layer over a file's settings.

    Settings of the file's model and solver stay with these: flags add to them, another model or solver starts afresh.
    """
    from subsetopt.training.settings.run import RunConfig

    layer = dict(flags)
    for name, arguments in (("model", "model_args"), ("solver", "solver_args")):
        named = base.get(name, RunConfig.model_fields[name].default)
        kept = base.get(arguments, {}) if flags.get(name, named) == named else {}
        if isinstance(kept, Mapping) and (name in flags or arguments in flags):
            layer[arguments] = {**kept, **flags.get(arguments, {})}
    return layer
