"""Packages that an extra brings, asked for in one line."""

from __future__ import annotations

import importlib
from typing import Any

from subsetopt.errors import UserError


def require(package: str, extra: str) -> Any:
    """Return the module `package`; raises `UserError` that names the extra where it is missing or does not import."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = getattr(error, "name", None)
        problem = "is not installed" if missing == package.split(".")[0] else f"cannot be imported ({error})"
        raise UserError(f"{package} {problem}; install it with `pip install 'subsetopt[{extra}]'`") from error
