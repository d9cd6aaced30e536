"""Find methods by name: a method registers itself in its own file, and everything else follows from that."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from subsetopt.arguments import require_text
from subsetopt.errors import SettingError, unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered method: its name, a one-line summary for `subsetopt list`, and the object itself."""

    name: str
    summary: str
    target: T


class Registry(Generic[T]):
    """Names of one kind (data sets, models, solvers, samplers), found by importing every module of `package`."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(self, name: str, summary: str) -> Callable[[T], T]:
        """Register the decorated object under `name`; a second registration of a name is a programming error."""

        def decorate(target: T) -> T:
            if name in self._entries:
                raise RuntimeError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, summary, target)
            return target

        return decorate

    def get(self, name: str) -> T:
        """Return the object registered under `name`; raises `SettingError` with "did you mean" when there is none."""
        self._discover()
        require_text(self.kind, name, f"the name of a {self.kind}")
        if name not in self._entries:
            raise self.unknown(name)
        return self._entries[name].target

    def unknown(self, name: str, others: Iterable[str] = ()) -> SettingError:
        """Return the error that says `name` is not one of ours, nor of `others` that are dealt with elsewhere."""
        self._discover()
        return unknown_name(self.kind, name, [*self._entries, *others])

    def __iter__(self) -> Iterator[Entry[T]]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
        self._discovered = True
