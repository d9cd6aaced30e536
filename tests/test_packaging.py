"""What is shipped: version, licence, presets, types; and what importing the package costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import subsetopt

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from this checkout."""
    pytest.importorskip("hatchling", reason="the wheel is built without network only where hatchling is installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_wheel_holds_both_packages_the_presets_and_the_licence(wheel: set[str]) -> None:
    assert {"subsetopt/py.typed", "subsetopt/training/settings/run.py", "subsetopt_cli/commands/train.py"} <= wheel
    assert {f"subsetopt/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")} <= wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_wheel_holds_no_tests_and_no_leftovers(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel if ".dist-info" not in name}
    assert tops == {"subsetopt", "subsetopt_cli"}
    assert not any("__pycache__" in name for name in wheel)


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert subsetopt.__version__ == project["version"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_direct_dependency_is_pinned_for_ci() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = {"transformers", "mlflow"}  # which CI does not install: 140 MB, and older packages than are pinned
    extras = [entries for name, entries in project["optional-dependencies"].items() if name not in heavy]
    lists = [project["dependencies"], *extras]
    wanted = {_normal(re.split(r"[\[<>=~! ;]", entry)[0]) for entries in lists for entry in entries}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_normal(line.split("==")[0]) for line in lines if "==" in line}
    assert wanted - pinned == {"subsetopt"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("name", [name for name in subsetopt.__all__ if name != "__version__"])
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(subsetopt, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'minimise'"):
        subsetopt.minimise  # noqa: B018  (the access is the test)
    assert "minimize" in dir(subsetopt)


def test_importing_the_package_imports_neither_torch_nor_click() -> None:
    code = "import sys, subsetopt; print(*({'torch', 'click', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_ci_script_is_executable_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
