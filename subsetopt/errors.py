"""The user's mistakes, each told in one line: the setting, the value and the remedy.

Everything derived from `UserError` ends the command with exit code 2 and no traceback;
any other exception is a defect of ours (exit code 1). Messages name settings by `setting(name, value)`, which spells
them as the reader would type them: a keyword in Python, a flag on the command line.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

_UNSET: Any = object()
_arguments: Sequence[str] | None = None  # what was typed on the command line, None in Python
FORMER_NAMES: dict[str, str] = {}
"""Settings whose names of former versions are still taken, as {present: former}; entered where they are declared."""


class UserError(ValueError):
    """A mistake in what the user gave us; `str(error)` is one line that names the remedy."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross the border of a process with the text as it is: a study's workers raise here what they found there."""
        return _restored, (type(self), self.args, dict(self.__dict__))


class SettingError(UserError):
    """A setting with an unusable value, e.g. `subset_frac = 1.5: must lie in (0, 1]; try 0.1`."""

    def __init__(self, setting: str, value: object, problem: str, remedy: str = "") -> None:
        self.setting, self.value, self.problem, self.remedy = setting, value, problem, remedy
        message = f"{given(setting, value)}: {problem}"
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


def setting(name: str, value: object = _UNSET) -> str:
    """Return the setting `name`, and `value` where given, as the reader would type it.

    In Python `image_size=32`, `task='regression'`, `stratify=False`; on the command line `--image-size 32`,
    `--task regression`, `--no-stratify`. The names are those of `RunConfig` and of the library's keywords.
    """
    if _arguments is None:
        return name if value is _UNSET else f"{name}={value!r}"
    flag = flag_of(name)
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    if isinstance(value, tuple):
        return f"{flag} {','.join(str(item) for item in value)}"
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {key}={item}" for key, item in value.items())
    return flag if value is _UNSET else f"{flag} {'none' if value is None else value}"


def flag_of(name: str) -> str:
    """Return the long flag of a setting: `max_epochs` is --max-epochs, `model_args` is --model-arg."""
    return "--" + name.removesuffix("s" if name.endswith("_args") else "").replace("_", "-")


@contextmanager
def command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Spell settings as flags while the command line `arguments` runs; those not typed, as a TOML file has them."""
    global _arguments
    before, _arguments = _arguments, arguments
    try:
        yield
    finally:
        _arguments = before


def typed(path: object) -> str:
    """Return a path as a shell takes it in a command that a remedy shows: quoted where it must be, never an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def on_command_line() -> bool:
    """Return whether a command line is run, whose remedies are commands and flags."""
    return _arguments is not None


def command_help() -> str:
    """Return the command whose help explains the settings, e.g. `subsetopt compare --help` in backquotes."""
    name = next((argument for argument in _arguments or () if not argument.startswith("-")), "train")
    return f"`subsetopt {name} --help`"


def was_typed(name: str, value: object) -> bool:
    """Return whether the command line that runs has the flag of this setting with this value, if only its default."""
    flag = setting(name, value) if isinstance(value, bool) else flag_of(name)
    return flag in (argument.partition("=")[0] for argument in _arguments or ())


def together(settings: Mapping[str, object]) -> str:
    """Return several settings with their values, as the reader would type them one after the other."""
    return (", " if _arguments is None else " ").join(setting(name, value) for name, value in settings.items())


def unknown_name(setting: str, value: str, known: Iterable[str]) -> SettingError:
    """Return the error for a name that is not among `known`, with "did you mean" where something is close."""
    names = sorted(set(known))
    close = _alike(value, names) or difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else f"choose one of {', '.join(names)}"
    return SettingError(setting, value, "unknown name", remedy)


def _alike(value: str, names: Sequence[str]) -> list[str]:
    """Return the names that are `value` in another spelling, else up to three that end in it: handoff_lr for lr."""
    plain = value.strip().lower().replace("-", "_")
    same = [name for name in names if name.lower().replace("-", "_") == plain]
    ending = [name for name in names if name.endswith(f"_{plain}")]
    return same or (ending if len(ending) <= 3 else [])


def given(name: str, value: object) -> str:
    """Return a setting with its value: by its flag where that was typed, else as Python and TOML files write it.

    Numbers and paths are shown as they were typed (1e309, not inf), and an entry of --model-arg or the like by that
    flag. A flag that was not typed stands alone.
    """
    for spelling in (name, *(former for present, former in FORMER_NAMES.items() if present == name)):
        flag = spelling if spelling.startswith("-") else flag_of(spelling)
        texts = [text for typed, text in _pairs() if typed == flag]
        if texts and (shown := _as_typed(value, texts)) is not None:
            return f"{flag} {shown}"
    for flag, text in _pairs():
        if flag.endswith("-arg") and text.partition("=")[0].strip() == name:
            return f"{flag} {text}"
    return name if value is None and name.startswith("-") else f"{name} = {_short(value)}"


def _pairs() -> Iterator[tuple[str, str]]:
    """Yield the flags of the command line, each with what follows it."""
    arguments = _arguments or ()
    for place, argument in enumerate(arguments):
        flag, equals, text = argument.partition("=")
        if flag.startswith("--"):
            yield flag, text if equals else "".join(arguments[place + 1 : place + 2])


def _as_typed(value: object, texts: Sequence[str]) -> str | None:
    """Return a value as one of `texts` has it, None for a path that is another one than was typed."""
    if isinstance(value, Mapping) or value in ((), []):
        value = " ".join(texts)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float, str)) for item in value):
        value = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    parts = [part for text in texts for part in (text, *text.split(","))]
    same = [part for part in parts if _means(part.strip(), value)]
    if same:
        value = same[0].strip()
    elif isinstance(value, PurePath):
        return None
    plain = isinstance(value, str) and 0 < len(value) <= 80 and value.isprintable()
    return str(value) if plain else _short(value)


def _means(text: str, value: object) -> bool:
    """Return whether `text` is how a number or a path was typed."""
    if isinstance(value, PurePath):
        return PurePath(text) == value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        number = float(text)
    except ValueError:
        return False
    return number == value or (number != number and value != value)


def _short(value: object) -> str:
    text = repr(str(value) if isinstance(value, PurePath) else value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def _restored(kind: type[UserError], args: tuple[Any, ...], facts: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error
