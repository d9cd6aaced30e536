"""Every error ends in one line and the promised exit code: 2 the user's mistake, 130 interrupted, 1 anything else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from subsetopt_cli.failures import exit_code_of

from subsetopt.errors import DataError


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which the command line knows by name only."""


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (DataError("data.npz: no such file"), 2, "Error: data.npz: no such file"),
        (click.UsageError("No such option: --x"), 2, "Error: No such option: --x"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/x"), 2, "Error: runs/a/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "Error: /root/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/ro"), 2, "Error: /ro: Read-only file system"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (click.Abort(), 130, "Interrupted"),
        (OutOfMemoryError("CUDA out of memory"), 1, "Error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "Error: out of memory"),
        (ZeroDivisionError("division by zero"), 1, "internal error: ZeroDivisionError: division by zero (run with"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "internal error: FileNotFoundError"),
        (RuntimeError("first\nsecond"), 1, "internal error: RuntimeError: first second"),
    ],
)
def test_one_line_and_the_promised_code(
    error: BaseException, code: int, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(error, debug=False) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(start) and printed.err.count("\n") == 1


def test_debug_shows_the_traceback_before_the_line(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> dict[str, Path]:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("subsetopt_cli.commands.list.preset_files", broken)
    quiet, loud = cli("list", "presets"), cli("list", "presets", "--debug")
    assert quiet.code == loud.code == 1
    assert "run with --debug" in quiet.line
    assert "Traceback" in loud.err and "deep inside" in loud.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "--subset-frak", "0.1"], "--subset-frac"),
        (["train", "extra"], "extra"),
        (["list"], "Missing argument"),
        (["list", "dataset"], "datasets"),
        (["train", "--seed"], "requires an argument"),
    ],
)
def test_usage_mistakes_are_one_line_with_a_hint(cli: Any, arguments: list[str], hint: str) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert hint in outcome.line


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "subsetopt", "list", "presets"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
