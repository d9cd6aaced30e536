"""The manual: every command and code block in it runs, every flag and file it names exists, its tables are current.

Reference: the commands, registries and files themselves.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from subsetopt_cli.main import _COMMANDS, run

from subsetopt.errors import SettingError
from subsetopt.guide import Page, page, pages
from subsetopt.guide.tables import filled

ROOT = Path(__file__).parents[2]
PAGES = pages()


def calls(code: str) -> list[list[str]]:
    """Return the words of every `subsetopt ...` line of a shell block."""
    lines = code.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("subsetopt ")]
    return [words[1:] for words in found]


def flags(name: str) -> set[str]:
    command: Any = importlib.import_module(f"subsetopt_cli.commands.{name.replace('-', '_')}").command
    commands = [command, *getattr(command, "commands", {}).values()]
    named = (flag for each in commands for option in each.params for flag in (*option.opts, *option.secondary_opts))
    return {*named, "--help"}


@pytest.mark.parametrize("topic", PAGES)
def test_every_block_of_a_page_runs_in_its_order(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command must end with exit code 0, a Python block without an error; later blocks see what earlier ones left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, Any] = {}
    for block in PAGES[topic].blocks():
        if block.not_run is not None:
            continue
        if block.language == "python":
            exec(compile(block.code, f"{topic}.md", "exec"), namespace)
        for call in calls(block.code) if block.language == "sh" else ():
            code = run([*call, "--quiet"] if call[0] in ("train", "compare") else call)
            assert code == 0, f"subsetopt {shlex.join(call)}\n{capfd.readouterr().err}"


@pytest.mark.parametrize("topic", PAGES)
def test_commands_that_are_not_run_parse(topic: str) -> None:
    for block in PAGES[topic].blocks():
        for name, *rest in calls(block.code) if block.not_run is not None else ():
            assert name in _COMMANDS
            assert {word for word in rest if word.startswith("--")} <= flags(name)


@pytest.mark.parametrize("topic", PAGES)
def test_every_flag_named_in_the_text_exists(topic: str) -> None:
    known = {flag for name in _COMMANDS for flag in flags(name)}
    assert set(re.findall(r"`(--[a-z][a-z0-9-]*)", PAGES[topic].text)) <= known


@pytest.mark.parametrize("topic", PAGES)
def test_files_and_topics_named_in_the_text_exist(topic: str) -> None:
    text = PAGES[topic].text
    for name in re.findall(r"`((?:reports|subsetopt|tests|configs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`subsetopt guide ([a-z-]+)`", text):
        assert name in PAGES


@pytest.mark.parametrize("topic", PAGES)
def test_tables_are_those_of_the_registries(topic: str) -> None:
    """`python -m subsetopt.guide` writes them."""
    assert filled(PAGES[topic].text) == PAGES[topic].text


def test_a_page_without_its_reason_is_run() -> None:
    text = "# T\n\n<!-- not run: no device -->\n```sh\nsubsetopt a\n```\n\n```sh\nsubsetopt b\n```\n"
    first, second = Page("t", text).blocks()
    assert (first.not_run, first.code) == ("no device", "subsetopt a\n")
    assert (second.not_run, second.code) == (None, "subsetopt b\n")


def test_an_unknown_topic_suggests_a_known_one() -> None:
    with pytest.raises(SettingError, match="did you mean 'strategies'"):
        page("strategy")


def test_the_command_prints_pages_and_topics(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guide"]) == 0
    listed = capsys.readouterr().out
    assert all(topic in listed for topic in PAGES)
    assert run(["guide", "samplers"]) == 0
    assert capsys.readouterr().out == PAGES["samplers"].text
    assert run(["guide", "no-such-topic"]) == 2


def test_pages_are_part_of_the_package() -> None:
    """They are read as package resources, so each must be tracked beside the code."""
    tracked = subprocess.run(["git", "ls-files", "subsetopt/guide"], cwd=ROOT, capture_output=True, text=True).stdout
    if not tracked:
        pytest.skip("not a git checkout")
    assert {f"subsetopt/guide/{topic}.md" for topic in PAGES} <= set(tracked.split())
