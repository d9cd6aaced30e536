"""LAPACK's routines as scipy wraps them, without the import of `scipy.linalg`: 0.2 CPU seconds, a tenth of a short run.

That package imports all of its modules for the one extension that is needed, which is loaded here by its file.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import scipy

_NAME = "scipy.linalg._flapack"


def _extension() -> Any:
    """Return the extension module, or scipy's own front of it where that is imported or lies elsewhere."""
    if "scipy.linalg" not in sys.modules and (loaded := _loaded()) is not None:
        return loaded
    from scipy.linalg import lapack

    return lapack


def _loaded() -> ModuleType | None:
    folder = Path(scipy.__file__).parent / "linalg"
    file = next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_flapack{suffix}").is_file()), None)
    spec = None if file is None else importlib.util.spec_from_file_location(_NAME, file)
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    sys.modules[_NAME] = module  # so that scipy.linalg, imported later, has the same
    return module if hasattr(module, "dtrtrs") else None


_lapack = _extension()
dtrtrs, dpotrs = _lapack.dtrtrs, _lapack.dpotrs
