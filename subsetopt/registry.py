"""Find methods by name: a method registers itself in its own file, and everything else follows from that.

Other packages add methods by entry points: the group is `subsetopt.` and the kind in the plural, e.g.
`[project.entry-points."subsetopt.solvers"]` with `bb = "mine.barzilai_borwein"`. The entry point names a module that
registers itself, or `module:object` of something that is registered under the entry point's name. A name may be taken
only once. What cannot be imported is left out, with one line of warning.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, Generic, TypeVar

from subsetopt.arguments import require_text
from subsetopt.errors import SettingError, unknown_name
from subsetopt.facts import Knob, PlannedStrategy
from subsetopt.imports import uncollected
from subsetopt.logs import left_out

T = TypeVar("T")
_LOG = left_out()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered method: its name, a one-line summary for `subsetopt list`, and the object itself.

    `knob` is the one setting that a comparison tunes (None: there is nothing to tune), `plan` the ways to train that
    `subsetopt plan` prices by laws.
    """

    name: str
    summary: str
    target: T
    knob: Knob | None = None
    plan: tuple[PlannedStrategy, ...] = ()

    @property
    def card(self) -> str:
        """Return the method card: the documentation of the module, and that of the object where it says more."""
        target: Any = self.target.func if isinstance(self.target, functools.partial) else self.target
        module = inspect.cleandoc(getattr(sys.modules.get(target.__module__), "__doc__", None) or "")
        own = inspect.cleandoc(target.__doc__ or "")
        return module if "## " in module or not own else f"{module}\n\n{own}".strip()


class Registry(Generic[T]):
    """Names of one kind (data sets, models, solvers, ...), found by importing the modules of `package`.

    With `packages_only` plain modules are passed over: they are the package's own business.
    """

    def __init__(self, kind: str, package: str, *, group: str | None = None, packages_only: bool = False) -> None:
        self.kind = kind
        self.group = group or f"subsetopt.{kind}s"
        self._package, self._packages_only = package, packages_only
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(
        self, name: str, summary: str, *, knob: Knob | None = None, plan: tuple[PlannedStrategy, ...] = ()
    ) -> Callable[[T], T]:
        """Register the decorated object under `name`; a second registration of a name is a programming error."""

        def decorate(target: T) -> T:
            if name in self._entries:
                raise RuntimeError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, summary, target, knob, plan)
            return target

        return decorate

    def get(self, name: str) -> T:
        """Return the object registered under `name`; raises `SettingError` with "did you mean" when there is none."""
        return self.entry(name).target

    def entry(self, name: str) -> Entry[T]:
        """Return the entry of `name`; raises `SettingError` with "did you mean" when there is none."""
        self._discover()
        require_text(self.kind, name, f"the name of a {self.kind}")
        if name not in self._entries:
            raise self.unknown(name)
        return self._entries[name]

    def unknown(self, name: str, others: Iterable[str] = ()) -> SettingError:
        """Return the error that says `name` is not one of ours, nor of `others` that are dealt with elsewhere."""
        return unknown_name(self.kind, name, [*self.names, *others])

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in alphabetical order."""
        return tuple(entry.name for entry in self)

    def __iter__(self) -> Iterator[Entry[T]]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        with uncollected():
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
                if module.ispkg or not self._packages_only:
                    importlib.import_module(module.name)
        self._discovered = True  # before what others wrote is imported, which may ask for names itself
        for point in sorted(_points(self.group), key=lambda point: point.name):
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        """Import what another distribution adds; what fails is told in one line and left out."""
        try:
            loaded = point.load()
            if point.attr and not any(entry.target is loaded for entry in self._entries.values()):
                if not callable(loaded):
                    raise TypeError(f"{point.attr} is not callable")
                summary = (inspect.getdoc(loaded) or f"{self.kind} of {point.value}").partition("\n")[0]
                self.register(point.name, summary)(loaded)
        except (Exception, SystemExit) as error:  # whatever their code does, ours goes on
            distribution = point.dist.name if point.dist is not None else "an unknown distribution"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            message = (
                f"{self.kind} {point.name!r} of {distribution} is left out: {point.value} cannot be used ({reason})"
            )
            _LOG.warning(message)


@functools.cache
def _all_points(path: tuple[str, ...]) -> Any:
    """Return the entry points of all groups; reading the metadata of a hundred distributions takes 10 ms."""
    return entry_points()


def _points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, without those of distributions whose metadata cannot be read."""
    try:
        return list(_all_points(tuple(sys.path)).select(group=group))
    except Exception:  # whatever is wrong with one of them: ask the others one by one
        found: list[EntryPoint] = []
        for distribution in distributions():
            try:
                found += distribution.entry_points.select(group=group)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                _LOG.warning(f"entry points of {distribution.name} are left out: they cannot be read ({reason})")
        return found
