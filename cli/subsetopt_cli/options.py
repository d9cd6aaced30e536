"""Command-line options made from `RunConfig`, so that names, help texts and defaults have one source.

The texts a user types go to pydantic as they are: a bad flag and a bad line in a TOML file end in the same message.
"""

from __future__ import annotations

import ast
import copy
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from subsetopt.errors import SettingError, flag_of
from subsetopt.training.settings.declaration import HEADINGS, declaration
from subsetopt.training.settings.phase import Choices

STUDY_HEADING = "Study"  # first where a command has it
# Lists of tables cannot be written as flags; they belong in a TOML file.
FILE_ONLY = frozenset({"phase"})


class HeadedOption(click.Option):
    """An option that knows under which heading of the help it stands; `former` are old flags, not shown there."""

    def __init__(self, *args: Any, heading: str = "Run", former: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading
        self.former = former

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Leave the old flags out of the help."""
        shown = copy.copy(self)
        shown.opts = [flag for flag in self.opts if flag not in self.former]
        shown.secondary_opts = [flag for flag in self.secondary_opts if flag not in self.former]
        return super(HeadedOption, shown).get_help_record(ctx)


class HeadedCommand(click.Command):
    """A command whose help groups its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per heading, in the order of `HEADINGS`."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (STUDY_HEADING, *HEADINGS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                rows[getattr(param, "heading", "Run")].append(record)
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class _Verbatim(click.types.StringParamType):
    """Text that is judged later, by pydantic; knows only what to offer on Tab."""

    def __init__(self, field: FieldInfo) -> None:
        self._choices = _choices(field)
        self._is_path = Path in _alternatives(field.annotation)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the allowed words, or let the shell complete paths."""
        if self._is_path:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


def setting_options(
    model: type[BaseModel],
    only: Iterable[str] | None = None,
    heading: str | None = None,
    taken: tuple[str, ...] = (),
    one: tuple[str, ...] = ("l2",),
) -> list[click.Parameter]:
    """Return one option per field of `model` (or per name in `only`), under `heading` or the one that it declares.

    `taken` are flags that mean something else in the command: no setting is known by them there. Of the settings `one`
    the command takes one value where a training run takes several.
    """
    names = model.model_fields if only is None else only
    options = [_option(name, model.model_fields[name], name in one) for name in names if name not in FILE_ONLY]
    for option in options:
        option.opts = [flag for flag in option.opts if flag not in taken]
    if heading is not None:
        for option in options:
            option.heading = heading
    return [*options]


def given_settings(model: type[BaseModel], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given as flags, ready for `make_config`.

    `none` takes back a numeric setting that a TOML file or a default has set, e.g. --max-iterations none.
    """
    given: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value == ():
            continue
        if isinstance(value, tuple):
            given[name] = key_values(flag_of(name), value)
        elif value == "none" and _may_be_none(model.model_fields[name].annotation):
            given[name] = None
        else:
            given[name] = value
    return given


def key_values(flag: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Parse repeated KEY=VALUE texts; raises `SettingError` for a text without `=`."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key.strip().isidentifier()):
            raise SettingError(flag, pair, "not of the form key=value", f"for example {flag} width=64")
        if key.strip() in parsed:
            raise SettingError(flag, pair, f"{key.strip()} is given twice", "keep one of them")
        parsed[key.strip()] = _literal(text.strip())
    return parsed


def _literal(text: str) -> Any:
    """Read a number, a truth value or a list of those (64,64); any other text stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if isinstance(value, tuple):
        value = list(value)
    items = value if isinstance(value, list) else [value]
    return value if all(isinstance(item, (int, float, bool)) for item in items) else text


def _option(name: str, field: FieldInfo, one: bool) -> HeadedOption:
    own = declaration(field)
    text = str(field.description)
    if one:  # what of several values is said last, and they follow a comma
        text = text.partition("; of several")[0]
    help_text = f"{text[0].upper()}{text[1:]}{_shown_default(field)}"
    flags = [flag_of(spelling) for spelling in (name, own.old) if spelling is not None]
    attributes: dict[str, Any] = {"default": None, "help": help_text, "heading": own.heading}
    if field.annotation is bool:
        former = tuple(flag for old in flags[1:] for flag in (old, f"--no-{old[2:]}"))
        switches = [f"{flag}/--no-{flag[2:]}" for flag in flags]
        return HeadedOption([*switches, name], is_flag=True, former=former, **attributes)
    repeatable = name.endswith("_args")
    return HeadedOption(
        [*flags, name],
        type=_Verbatim(field),
        multiple=repeatable,
        metavar="KEY=VALUE" if repeatable else _metavar(field) if one else own.metavar or _metavar(field),
        former=tuple(flags[1:]),
        **attributes,
    )


def _shown_default(field: FieldInfo) -> str:
    if "[default" in str(field.description) or field.is_required():
        return ""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None and "auto" in str(field.description):
        default = "auto"
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return f"  [default: {'yes' if default else 'no'}]"
    if isinstance(default, tuple):
        default = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
    return f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"


def _metavar(field: FieldInfo) -> str:
    choices = _choices(field)
    if choices:
        return "[" + "|".join(choices) + "]"
    kinds = _alternatives(field.annotation)
    if Path in kinds:
        return "PATH"
    if int in kinds:
        return "N"
    return "X" if float in kinds else "NAME"


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words of `Choices` or of a `Literal`, also where it may be left out (`Literal[...] | None`)."""
    looked_up = next((extra.words() for extra in field.metadata if isinstance(extra, Choices)), None)
    if looked_up is not None:
        return looked_up
    members = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    if len(members) == 1 and typing.get_origin(members[0]) is Literal:
        return tuple(str(choice) for choice in typing.get_args(members[0]))
    return ()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, with `Annotated` taken off at every depth."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for member in typing.get_args(annotation) for kind in _alternatives(member))
    return (annotation,)


def _may_be_none(annotation: Any) -> bool:
    kinds = _alternatives(annotation)
    return type(None) in kinds and str not in kinds
