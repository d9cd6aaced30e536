"""Where every error ends: one line on standard error and an exit code."""

from __future__ import annotations

import errno
import sys
import traceback

import click

from subsetopt.distributed import RankLostError, is_main
from subsetopt.errors import UserError

USER_MISTAKE, INTERRUPTED, DEFECT = 2, 130, 1

# Conditions of the user's machine that the user can mend, and how; any other OSError is a defect of ours.
_REMEDIES = {
    getattr(errno, name): remedy
    for names, remedy in (
        ("ENOSPC EDQUOT EFBIG", "free disk space or choose another directory"),
        ("EACCES EPERM EROFS", "change its permissions or choose another directory"),
        ("EISDIR ENOTDIR EEXIST ENAMETOOLONG", "choose another path"),
    )
    for name in names.split()
    if hasattr(errno, name)
}


def exit_code_of(error: BaseException, *, debug: bool) -> int:
    """Print `error` in one line (with `debug` after its traceback) and return the exit code."""
    if not is_main() and _reported_by_rank_0(error):
        return _describe(error)[1]
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        _say("Interrupted.")
        return INTERRUPTED
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    line, code = _describe(error)
    _say(line)
    return code


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, UserError):
        return f"Error: {error}", USER_MISTAKE
    if isinstance(error, click.ClickException):
        return f"Error: {error.format_message()}{_hint(error)}", error.exit_code
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return f"Error: {where}{error.strerror}; {_REMEDIES[error.errno]}", USER_MISTAKE
    if _out_of_memory(error):
        return f"Error: out of memory ({error}); lower --chunk-size or --subset-frac", DEFECT
    return (
        f"internal error: {type(error).__name__}: {error} (run with --debug for the traceback; please report)",
        DEFECT,
    )


def _reported_by_rank_0(error: BaseException) -> bool:
    """Return whether rank 0 reports it: every mistake reaches all ranks, but the lost rank may be rank 0 itself."""
    mistake = isinstance(error, (UserError, click.ClickException))
    return mistake and not isinstance(error, RankLostError)


def _hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f" See `{error.ctx.command_path} --help`."
    return ""


def _out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError cannot be named without importing torch; on a CPU torch raises a RuntimeError.
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text)
    )


def _say(line: str) -> None:
    click.echo(" ".join(line.split()), err=True)
