"""The user's mistakes, each told in one line: the setting, the value and the remedy.

Everything derived from `UserError` ends the command with exit code 2 and no traceback;
any other exception is a defect of ours (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave us; `str(error)` is one line that names the remedy."""


class SettingError(UserError):
    """A setting with an unusable value, e.g. `subset_frac = 1.5: must lie in (0, 1]; try 0.1`."""

    def __init__(self, setting: str, value: object, problem: str, remedy: str = "") -> None:
        self.setting, self.value, self.problem, self.remedy = setting, value, problem, remedy
        message = f"{setting} = {_short(value)}: {problem}"
        super().__init__(f"{message}; {remedy}" if remedy else message)


class SettingsConflictError(SettingError):
    """Settings that do not go together; `problem` names them, their values and the remedy."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__("settings", None, problem, remedy)
        self.args = (f"{problem}; {remedy}" if remedy else problem,)


class DataError(UserError):
    """Missing, corrupt or ill-shaped data; names the file or array."""


class ModelError(UserError):
    """A model that cannot be built or does not fit the data."""


class RunDirectoryError(UserError):
    """A run directory that cannot be written, read or resumed."""


def unknown_name(setting: str, value: str, known: Iterable[str]) -> SettingError:
    """Return the error for a name that is not among `known`, with "did you mean" where something is close."""
    names = sorted(known)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
    return SettingError(setting, value, "unknown name", remedy)


def _short(value: object) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."
