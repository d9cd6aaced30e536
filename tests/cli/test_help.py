"""Help answers at once: it imports none of the heavy libraries."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest
from subsetopt_cli.main import _COMMANDS, LazyGroup
from subsetopt_cli.main import cli as group

HEAVY = {"torch", "scipy", "sklearn", "matplotlib", "numpy"}
SCRIPT = """
import sys
from subsetopt_cli.main import run
code = run(sys.argv[1:])
print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def _modules_after(*arguments: str) -> tuple[set[str], str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split()), done.stdout


def test_help_of_the_group_imports_neither_pydantic_nor_torch() -> None:
    modules, text = _modules_after("--help")
    assert not modules & (HEAVY | {"pydantic", "tqdm"})
    assert all(name in text for name in _COMMANDS)


@pytest.mark.parametrize("command", list(_COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    modules, text = _modules_after(command, "--help")
    assert not modules & HEAVY
    assert "--debug" in text and "-h, --help" in text


def test_ratio_of_bare_numbers_imports_nothing_heavy() -> None:
    modules, _ = _modules_after("ratio", "--samples", "6000", "--outputs", "10", "--parameters", "500", "--json")
    assert not modules & HEAVY


@pytest.mark.parametrize(("name", "summary"), list(_COMMANDS.items()))
def test_the_summary_in_the_group_is_the_first_line_of_the_command(name: str, summary: str) -> None:
    command = importlib.import_module(f"subsetopt_cli.commands.{name.replace('-', '_')}").command
    assert command.name == name
    assert command.short_help == summary
    assert str(command.help).splitlines()[0] == summary


def test_group_without_arguments_shows_its_help_and_succeeds(cli: Callable[..., Any]) -> None:
    outcome = cli()
    assert outcome.code == 0 and "Commands:" in outcome.out and outcome.err == ""


def test_version_is_that_of_the_installed_package(cli: Callable[..., Any]) -> None:
    from importlib.metadata import version

    assert cli("--version").out == f"subsetopt {version('subsetopt')}\n"


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "subsetopt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("subsetopt ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_calls_back(cli: Callable[..., Any], shell: str) -> None:
    outcome = cli("completion", shell)
    assert outcome.code == 0 and f"_SUBSETOPT_COMPLETE={shell}_complete" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("# save as")


def test_completion_offers_choices_commands_and_presets() -> None:
    from click.shell_completion import ShellComplete

    assert isinstance(group, LazyGroup)
    complete = ShellComplete(group, {}, "subsetopt", "_SUBSETOPT_COMPLETE")

    def offered(arguments: list[str], incomplete: str) -> list[str]:
        return [item.value for item in complete.get_completions(arguments, incomplete)]

    assert offered([], "tr") == ["train"]
    assert offered(["train", "--dtype"], "") == ["float32", "float64"]
    assert offered(["train"], "--subset-f") == ["--subset-frac"]
    assert "digits" in offered(["train", "--config"], "di")
    assert complete.get_completions(["train", "--data-dir"], "x")[0].type == "file"
    assert isinstance(group, click.Group)
