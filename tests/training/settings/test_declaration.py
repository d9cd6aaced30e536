"""A setting is one edit: a field added to the source is a flag, a TOML key, a phase's setting and a study's.

Reference: the same command lines without the edit, which refuse the setting. The edit is made to the text of the module
while a process imports it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner
from subsetopt_cli.commands.train import command as train

from subsetopt.errors import SettingError, command_line
from subsetopt.training.checks.identity import FREE
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.run import RunConfig, make_config, read_toml

IMPORT = """
import importlib.abc, importlib.util, json, sys
from pathlib import Path

module, before, field = json.loads(sys.argv[1])

class Edited(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    def find_spec(self, name, path, target=None):
        if name != module:
            return None
        self.file = next(Path(folder) / f"{name.rpartition('.')[2]}.py" for folder in path)
        return importlib.util.spec_from_file_location(name, self.file, loader=self)

    def get_filename(self, name):
        return str(self.file)

    def get_data(self, path):
        text = Path(path).read_text(encoding="utf-8")
        assert text.count(before) == 1
        return text.replace(before, field + before).encode()

    def path_stats(self, path):
        raise OSError

if field:
    sys.meta_path.insert(0, Edited())
"""
LOOK = """
from click.testing import CliRunner
from subsetopt_cli.commands.train import command as train
from subsetopt.compare.config import SHARED, make_study, table_settings
from subsetopt.errors import SettingError
from subsetopt.training.settings.run import make_config, read_toml

found = {"help": CliRunner().invoke(train, ["--help"], terminal_width=200).output, "shared": list(SHARED)}
for name in sys.argv[3:]:
    try:
        config = make_config(read_toml(Path(sys.argv[2])), {name: 0.25})
        found[name] = {
            "config": config.model_dump(mode="json"), "phases": [p.model_dump(mode="json") for p in config.phases()],
        }
        found[name]["table"] = table_settings({"name": "mine", name: 0.25})[2]
        make_config({name: 7.0})
    except SettingError as error:
        found[name] = {**found.get(name, {}), "error": str(error)}
    try:
        found[name]["study"] = make_study({name: 0.25}).shared
    except SettingError as error:
        found[name]["study"] = str(error)
print(json.dumps(found))
"""
PHASE = "subsetopt.training.settings.phase"
FIRST_ORDER = """
    sharpness: float = Field(
        0.5, gt=0, lt=1, description="a made-up radius", json_schema_extra=declared("Hand-off", OWNER, ROLES)
    )
"""


def look(tmp_path: Path, module: str, before: str, field: str, *names: str) -> dict[str, Any]:
    """Return what a process finds of the settings `names` whose source has `field` inserted before `before`."""
    config = tmp_path / "run.toml"
    config.write_text(tomli_w.dumps({"warmup": "adam", "handoff": "srs", "l2": 0.5}), encoding="utf-8")
    edit = json.dumps([module, before, field])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT + LOOK, edit, str(config), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def section(text: str, heading: str) -> str:
    """Return the part of a help text under `heading`."""
    return text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]


def test_a_setting_of_first_order_phases_is_one_field(tmp_path: Path) -> None:
    before = "    amp: bool = Field("
    field = FIRST_ORDER.replace("OWNER", '"shared"').replace("ROLES", '"warmup", "handoff"')
    names = ("handoff_sharpness", "warmup_sharpness")
    assert look(tmp_path, PHASE, before, "", *names)["handoff_sharpness"]["error"].endswith("'handoff_args'?")
    found = look(tmp_path, PHASE, before, field, *names)
    for name, heading in zip(names, ("Hand-off", "Warm-up"), strict=True):
        line = next(
            line
            for line in section(found["help"], heading).splitlines()
            if f"--{name[:4]}" in line and "sharpness" in line
        )
        assert "A made-up radius  [default: 0.5]" in line and " X " in line
        role = name.partition("_")[0]
        one = found[name]
        assert one["config"][name] == 0.25 and name in found["shared"]
        assert {p["role"]: p["sharpness"] for p in one["phases"]} == {"warmup": 0.5, "solve": 0.5, "handoff": 0.5} | {
            role: 0.25
        }
        assert one["table"] == {name: 0.25} and one["study"][name] == 0.25
        assert one["error"].startswith(f"{name} = 7.0: Input should be less than 1")


@pytest.mark.parametrize(
    ("module", "before", "owner"),
    [(PHASE, "    noise_theta: float = Field(", "method"), ("subsetopt.training.settings.fields", "    seed: int", "")],
)
def test_a_setting_of_solves_or_of_the_run_is_one_field(tmp_path: Path, module: str, before: str, owner: str) -> None:
    role = ', "solve"' if owner else ""
    field = FIRST_ORDER.replace('"Hand-off", OWNER, ROLES', f'"Solve", "{owner or "study"}"{role}')
    found = look(tmp_path, module, before, field, "sharpness")
    one = found["sharpness"]
    assert "--sharpness" in section(found["help"], "Solve") and one["config"]["sharpness"] == 0.25
    assert "sharpness" not in found["shared"]
    if owner:
        assert [p["sharpness"] for p in one["phases"]] == [0.5, 0.25, 0.5] and one["table"] == {"sharpness": 0.25}
        assert "belongs to one method" in one["study"]
    else:
        assert "method 'mine' cannot set it" in one["error"] and "set by the study itself" in one["study"]


OLD = [("start", "grow_start", 0.2), ("carry", "grow_carry", False)]


@pytest.mark.parametrize(("old", "new", "value"), OLD)
def test_former_names_are_taken_and_written_as_the_present_ones(
    tmp_path: Path, old: str, new: str, value: object
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps({"grow": 2.0, old: value}), encoding="utf-8")
    config = make_config(read_toml(path))
    assert config == make_config({"grow": 2.0, new: value}) == RunConfig(grow=2.0, **{old: value})
    assert new in config.model_dump() and old not in config.model_dump()
    assert make_config({old: value}, {new: getattr(RunConfig(), new)}) == RunConfig()
    with pytest.raises(
        SettingError, match=rf"{new}={value!r} and {old}={value!r} are the same setting; leave {old} out"
    ):
        make_config({old: value, new: value})
    with pytest.raises(SettingError, match=rf"^{old} = \[\]: "):
        make_config({old: []})


def test_former_flags_are_taken_but_not_shown() -> None:
    shown = CliRunner().invoke(train, ["--help"]).output
    assert "--grow-start X" in shown and "--grow-carry / --no-grow-carry" in shown
    assert " --start" not in shown and "--no-carry" not in shown and " --carry" not in shown
    context = train.make_context("train", ["--start", "0.25", "--no-carry"])
    assert (context.params["grow_start"], context.params["grow_carry"]) == ("0.25", False)
    with command_line(["train", "--start", "7"]), pytest.raises(SettingError, match=r"^--start 7: Input should be"):
        make_config({"grow_start": "7"})


def test_settings_that_may_change_on_the_way_are_where_things_lie_and_compute() -> None:
    """Reference: the list by hand."""
    where, how = {"output", "data_dir", "data_file", "init_from", "device"}, {"checkpoint_seconds", "rank_timeout"}
    assert where | how | {"track_validation", "log_to", "test_file"} == FREE


def test_the_stopping_test_of_a_growing_stage_is_named_by_its_flag() -> None:
    config = make_config({"grow": 2.0})
    stage, *_, last = (phase for phase in config.phases() if phase.role in ("grow", "solve"))
    assert [setting_name(config, stage, name) for name in ("stop_at", "share", "gtol")] == [
        "grow_stop",
        "grow_start",
        "gtol",
    ]
    assert setting_name(config, last, "stop_at") == "stop_at"
