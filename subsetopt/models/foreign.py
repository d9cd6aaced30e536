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

from subsetopt.errors import ModelError, SettingError, setting
from subsetopt.seeding import seeded_globals

FACTORY = "FACTORY"  # stands for a name that the user knows


def load_factory(name: str, seed: int) -> Callable[..., nn.Module]:
    """Import `package.module:factory` (the factory may be dotted, as in `zoo:Net.small`) and return the factory.

    The import runs under its own random stream, so that weights do not depend on whether the module was imported
    before. Raises `SettingError` for a malformed name and `ModelError` where the import fails or finds no callable.
    """
    if is_file_name(name):
        raise file_name_error(name)
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


def is_file_name(name: str) -> bool:
    """Tell whether what stands for a model is the name of a file, which Python does not import."""
    path = name.rpartition(":")[0] or name
    as_module = Path(path.replace(".", "/")).with_suffix(".py")
    return "/" in path or "\\" in path or (path.endswith(".py") and not as_module.is_file())


def file_name_error(name: str) -> SettingError:
    """Return the error for the name of a file, with how it is written as a module."""
    head, _, attribute = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    path = Path(head.replace("\\", "/")).with_suffix("")
    here = Path.cwd()
    below = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    inside = not below.is_absolute() and ".." not in below.parts
    module = ".".join(below.parts) if inside else below.name
    remedy = f"write {setting('model', f'{module}:{attribute or FACTORY}')}"
    if not inside:
        remedy += f" and put {path.parent} on PYTHONPATH"
    return SettingError("model", name, "is not package.module:factory but a file", remedy)


def own_module_error(name: str) -> SettingError | None:
    """Return the error for the name of a module of the current directory without a factory; None for other names."""
    path = Path(name.replace(".", "/"))
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    if not (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
        return None
    return SettingError("model", name, "is a module", f"name its factory, too: {setting('model', f'{name}:{FACTORY}')}")


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
