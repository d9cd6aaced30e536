"""Load a model factory of the user's own from `package.module:factory`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

from torch import nn

from subsetopt.errors import ModelError, SettingError
from subsetopt.seeding import seeded_globals


def load_factory(name: str, seed: int) -> Callable[..., nn.Module]:
    """Import `package.module:factory` (the factory may be dotted, as in `zoo:Net.small`) and return the factory.

    The import runs under its own random stream, so that weights do not depend on whether the module was imported
    before. Raises `SettingError` for a malformed name and `ModelError` where the import fails or finds no callable.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise SettingError("model", name, "is not package.module:factory", "write for example my_models:make_net")
    try:
        with seeded_globals(seed, "import"):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        remedy = "" if _is_found(module_name, error) else f"; is {module_name} in {Path.cwd()} or installed?"
        raise ModelError(f"model {name!r}: importing {module_name} failed: {one_line(error)}{remedy}") from error
    try:
        factory = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise ModelError(f"model {name!r}: {module_name} has no {attribute!r}; {_offer(module_name)}") from None
    if not callable(factory):
        raise ModelError(f"model {name!r} is a {type(factory).__name__}, not a function that returns a torch.nn.Module")
    return factory


def import_object(path: str) -> object:
    """Import `package.module:name` (the name may be dotted); raises `ImportError` in one line, whatever goes wrong."""
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ImportError("is not package.module:name")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        remedy = "" if _is_found(module_name, error) else f"; is {module_name} in {Path.cwd()} or installed?"
        raise ImportError(f"importing {module_name} failed: {one_line(error)}{remedy}") from error
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        close = difflib.get_close_matches(attribute, dir(module), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else _offer(module_name)
        raise ImportError(f"{module_name} has no {attribute!r}; {hint}") from None


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Put the current directory first on sys.path, as `python -m` does, for as long as a model is being built."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _is_found(module_name: str, error: BaseException) -> bool:
    """Tell a module that is not there from one that fails while it is imported."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is None or not f"{module_name}.".startswith(f"{missing}.")


def _offer(module_name: str) -> str:
    public = [name for name, value in vars(sys.modules[module_name]).items() if callable(value) and name[0] != "_"]
    return f"it has {', '.join(sorted(public)[:8])}" if public else "it defines nothing callable"
