"""The README promises only what there is: commands, flags, settings and files."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from subsetopt_cli.main import _COMMANDS, run
from subsetopt_cli.presets import preset_files

from subsetopt.guide import pages

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
CALLS = [
    shlex.split(call.split("#")[0], comments=True)[1:]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    for call in re.findall(r"(?:^|&& )(?:\.venv/bin/)?(subsetopt .*)", line)
]


def _flags(name: str) -> set[str]:
    command: Any = importlib.import_module(f"subsetopt_cli.commands.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    return {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_in_the_readme_parses(call: list[str]) -> None:
    name, *rest = call
    assert name in _COMMANDS
    flags = [word for word in rest if word.startswith("--")]
    assert set(flags) <= _flags(name)


def test_every_flag_named_in_the_text_exists() -> None:
    known = {flag for name in _COMMANDS for flag in _flags(name)}
    mentioned = set(re.findall(r"`(--[a-z][a-z0-9-]*)", README)) - {"--check"}
    assert mentioned and mentioned <= known


def test_presets_that_the_readme_uses_are_shipped() -> None:
    text = README + "".join(page.text for page in pages().values())
    used = set(re.findall(r"subsetopt (?:train|compare) --config (\S+)", text))
    assert used and used <= {*preset_files(), *preset_files("study")}


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_commands_that_ci_runs_are_marked(name: str) -> None:
    pattern = rf"<!-- command: {name} -->\n```sh\n(.*?)\n```"
    (command,) = re.findall(pattern, README, flags=re.DOTALL)
    assert "\n" not in command, "one command line"
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")


def test_the_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "tensor([1" in printed, "Rosenbrock's minimum is at (1, 1)"


def test_the_tour_on_a_table_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but with few iterations and minima."""
    monkeypatch.chdir(tmp_path)
    rows = [(i % 7, "red" if i % 3 else "blue", "" if i % 11 == 0 else i * i % 17) for i in range(120)]
    lines = [f"{a},{word},{b},{2.5 * a + (word == 'red') + 0.1 * (i % 5)}" for i, (a, word, b) in enumerate(rows)]
    Path("data.csv").write_text("\n".join(["a,colour,b,y", *lines]) + "\n")
    Path("new.csv").write_text("colour,b,a\nred,3,1\ngreen,,2\n")
    (block,) = re.findall(r"<!-- tour: csv -->\n```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)[1:]
        short = {"train": ["--max-iterations", "5"], "learn-curve": ["--max-iterations", "5", "--repeats", "1"]}
        assert run([*words, *short.get(words[0], [])]) == 0, line
    assert Path("predictions.csv").read_text().count("\n") == 3
    assert Path("runs/path/l2_path.png").exists() and Path("runs/curve/learning_curve.png").exists()


def test_files_that_the_readme_names_are_there() -> None:
    for name in ("LICENSE", "CITATION.cff", "constraints.txt", ".ci/run", "configs"):
        assert (ROOT / name).exists()
