"""Find the TOML presets: inside the installed package, or in `configs/` of a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import subsetopt
from subsetopt.errors import unknown_name


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


def read_config(text: str) -> dict[str, Any]:
    """Read a TOML file, or the preset of that name; raises `SettingError` when there is neither."""
    from subsetopt.training.settings.run import read_toml

    path = Path(text)
    presets = {**preset_files(), **preset_files("study")}
    if text in presets and not path.is_file():
        path = presets[text]
    elif not path.exists() and path.suffix == "" and len(path.parts) == 1:
        raise unknown_name("config", text, presets)
    return read_toml(path)


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
