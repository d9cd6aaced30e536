"""The script for a machine with a GPU, run as it stands, with few tests: so that it cannot rot."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "gpu" / "run.sh"


def run(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # What is tested is that the parts end well, not when: other tests have this machine's cores.
    own = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "SUBSETOPT_PATIENCE": "8"}
    environment = {**os.environ, **own, **variables}
    command = ["bash", str(SCRIPT), str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)


def test_one_call_runs_every_part_and_leaves_its_results_in_files(tmp_path: Path) -> None:
    parts = ["environment", "tests", "bench"]
    if importlib.util.find_spec("subsetopt.bench.gpu") is None:
        parts.remove("bench")
    one = {
        "SUBSETOPT_TESTS": "tests/gpu/test_ranks.py",
        "SUBSETOPT_BENCH": "--parts eigen --seconds-per-part 400 --seconds 400",
    }
    done = run(tmp_path / "out", SUBSETOPT_PARTS=" ".join(parts), **one)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (tmp_path / "out" / "parts.txt").read_text().splitlines()
    assert [line.split(" after ")[0] for line in lines] == [f"{part}: exit 0" for part in parts]
    told = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert told["packages"]["torch"] != "absent" and told["subsetopt"].count(".") == 2
    assert Path(told["source"]) == ROOT / "subsetopt", "the checkout, whatever is installed"
    cases = {case.get("name", "") for case in ElementTree.parse(tmp_path / "out" / "pytest.xml").iter("testcase")}
    names = {name.partition("[")[0] for name in cases}
    assert cases == {f"{name}[{device}]" for name in names for device in ("cpu", "cuda")} and len(names) == 2


def test_a_part_that_fails_is_told_and_does_not_stop_the_next(tmp_path: Path) -> None:
    done = run(tmp_path / "out", SUBSETOPT_PARTS="tests environment", SUBSETOPT_TESTS="tests/gpu/no_such_test.py")
    assert done.returncode == 1
    text = (tmp_path / "out" / "parts.txt").read_text()
    assert "environment: exit 0" in text and "tests: exit 4" in text, "4: pytest's own code for a wrong path"


def test_the_same_tests_are_collected_for_every_device() -> None:
    """`pytest -m gpu` without this project's own options, as the script calls it."""
    folders = [str(ROOT / "tests" / folder) for folder in ("gpu", "samplers")]
    options = ["-m", "gpu", "-o", "addopts=", "--import-mode=importlib", "--collect-only", "-q"]
    command = [sys.executable, "-m", "pytest", *options, *folders]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    ids = [line for line in told.splitlines() if "::" in line]
    on_cpu = {each for each in ids if "[cpu" in each}
    on_gpu = {each.replace("[cuda", "[cpu") for each in ids if "[cuda" in each}
    assert on_cpu and on_cpu == on_gpu
