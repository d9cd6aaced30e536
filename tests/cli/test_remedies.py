"""What messages recommend exists where they are read: flags on the command line, keywords in Python.

Reference: the options of all commands, the fields of `RunConfig` and `StudyConfig`, and the signatures of the library.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import subsetopt_cli
from subsetopt_cli.main import cli as root

import subsetopt
from subsetopt import SubsetTrainer, load_dataset
from subsetopt.analysis.effective_ratio import effective_run
from subsetopt.analysis.verification import verify_run
from subsetopt.compare.config import StudyConfig
from subsetopt.errors import flag_of
from subsetopt.plan.plan import make_plan
from subsetopt.study.workers import Workers
from subsetopt.training.prediction.export import export_run
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.run import RunConfig

ROOTS = [Path(package.__path__[0]) for package in (subsetopt, subsetopt_cli)]
OWN_FLAGS = ("bench/gpu", "bench/held_out.py", "bench/physics.py")  # run by `python -m`, with options of their own
SOURCES = [
    path
    for folder in ROOTS
    for path in sorted(folder.rglob("*.py"))
    if not path.relative_to(folder).as_posix().startswith(OWN_FLAGS)
]
OTHER_PROGRAMS = {"--standalone", "--nproc-per-node", "--no-deps"}  # torchrun's and pip's own, in hints


def _flags() -> set[str]:
    found: set[str] = {"--help", "--version"}
    pending: list[click.Command] = [root]
    while pending:
        command = pending.pop()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
        if isinstance(command, click.Group):
            context = click.Context(command)
            pending += [
                inner for name in command.list_commands(context) if (inner := command.get_command(context, name))
            ]
    return found


FLAGS = _flags()


def _keywords() -> set[str]:
    callables: list[Any] = [
        SubsetTrainer,
        SubsetTrainer.resume,
        load_dataset,
        make_plan,
        Workers,
        effective_run,
        export_run,
        verify_run,
    ]
    named = {name for call in callables for name in inspect.signature(call).parameters}
    return named | {*RunConfig.model_fields, *StudyConfig.model_fields}


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings of a file that are not documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_flag_that_a_text_names_is_one(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {
        (line, flag)
        for line, text in _texts(tree)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])", text)
    }
    assert {entry for entry in named if entry[1] not in FLAGS | OTHER_PROGRAMS} == set()


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_setting_that_a_message_spells_exists_on_both_faces(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(
        alias.name == "setting"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "subsetopt.errors"
        for alias in node.names
    ):
        return
    keywords = _keywords()
    for call in _calls(tree, "setting"):
        if isinstance(call.args[0], ast.Constant):
            name = str(call.args[0].value)
            assert flag_of(name) in FLAGS and name in keywords, (path.name, call.lineno, name)


LIBRARY = [path for path in SOURCES if path.parent.name in ("training", "samplers", "solvers", "study")]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_errors_of_the_library_write_no_flag_that_a_keyword_may_have_to_be(path: Path) -> None:
    """A flag in a message that Python prints, too, is spelled by `setting`; help pages alone are named as they are."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for line, text in _texts(node.exc):
                found = [flag for flag in re.findall(r"--[a-z][a-z-]*", text) if flag != "--help"]
                assert not found, (path.name, line, found)


CASES = [
    ({"warmup": "sgd"}, "warmup", {"method": "warmup", "epochs": "warmup_epochs", "lr": "warmup_lr"}),
    (
        {"handoff": "adam"},
        "handoff",
        {
            "method": "handoff",
            "epochs": "handoff_epochs",
            "stop_at": "handoff_stop_at",
            "batch_size": "handoff_batch_size",
            "amp": "handoff_amp",
        },
    ),
    ({"handoff": "full"}, "handoff", {"method": "handoff_solver", "settings": "handoff_args"}),
    (
        {"handoff": "srs"},
        "handoff",
        {"method": "handoff_optimizer", "sampler": "handoff", "sampler_settings": "handoff_args"},
    ),
    ({"grow": 2.0}, "grow", {"method": "solver", "epochs": "grow_epochs"}),
    (
        {},
        "solve",
        {
            "method": "solver",
            "epochs": "solver_epochs",
            "settings": "solver_args",
            "stop_at": "stop_at",
            "gtol": "gtol",
            "max_iterations": "max_iterations",
        },
    ),
]


@pytest.mark.parametrize(("flags", "role", "names"), CASES)
def test_a_phase_made_by_flags_calls_its_settings_by_flags(
    flags: dict[str, Any], role: str, names: dict[str, str]
) -> None:
    """And one of an explicit list by its place and key there."""
    config = RunConfig(**flags)
    phase = next(phase for phase in config.phases() if phase.role == role)
    for name, spelled in names.items():
        assert setting_name(config, phase, name) == spelled and flag_of(spelled) in FLAGS
        assert setting_name(RunConfig(phase=(phase,)), phase, name) == f"phase.0.{name}"


def test_how_to_go_on_with_a_run_is_a_command(cli: Any) -> None:
    flags = ["--model", "linear", "--subset-frac", "0.2", "--handoff", "none", "--max-iterations", "2"]
    assert cli("train", *flags, "--output", "run").code == 0
    assert cli("train", *flags, "--output", "run").line.endswith("or `subsetopt resume run`")
    assert cli("resume", "run", "--max-iterations", "2").line.endswith("`subsetopt train --init-from RUN`")
