"""Read a published pickle without running what is in it: numpy arrays and plain containers, nothing else."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import read_bytes
from subsetopt.errors import DataError


def load_plain(path: Path) -> Any:
    """Unpickle dicts, lists, tuples, numbers, bytes and numeric numpy arrays; Python 2 strings come as bytes.

    Raises `DataError` for a pickle that asks for anything else, before that is imported or called, and for one that
    is truncated or malformed.
    """
    try:
        return _PlainUnpickler(io.BytesIO(read_bytes(path)), encoding="bytes").load()
    except DataError:
        raise
    except _RefusedError as refusal:
        raise DataError(
            f"{path}: refused, the pickle asks for {refusal} and only numpy arrays and plain containers are read; "
            "download the file again from its publisher (`subsetopt download`)"
        ) from None
    except Exception as error:  # a malformed pickle can raise anything, from IndexError to MemoryError
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(
            f"{path}: not a complete pickle ({reason}); delete it and download it again (`subsetopt download`)"
        ) from error


class _RefusedError(Exception):
    """Names what the pickle asked for."""


class _PlainDtype:
    """Stands in for `numpy.dtype`, whose own `__setstate__` would let a pickle set item sizes and object flags."""

    def __init__(self, code: object) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        dtype = np.dtype(text) if isinstance(text, str) else None
        if dtype is None or dtype.kind not in "buif":
            raise _RefusedError(f"a numpy array of {text!r:.40}")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _PlainArray(np.ndarray[Any, np.dtype[Any]]):
    """An array that a pickle can fill with bytes of a numeric dtype, and with nothing else."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, plain, fortran, content = state
        if not isinstance(plain, _PlainDtype) or not isinstance(content, bytes):
            raise _RefusedError("a numpy array of objects")
        # numpy's parser wants a Python bool here; its stubs say numpy.bool.
        super().__setstate__((version, shape, plain.dtype, cast(Any, bool(fortran)), content))


class _PlainUnpickler(pickle.Unpickler):
    """Gives a pickle stand-ins for the five names that published arrays use; imports nothing on its behalf.

    The stand-ins are bound methods, on which a pickle cannot set attributes.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an admitted name; raises `_RefusedError` for any other."""
        admitted = {
            ("numpy.core.multiarray", "_reconstruct"): self._reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): self._reconstruct,
            ("numpy", "ndarray"): self._ndarray,
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self._encode,
        }
        if (module, name) not in admitted:
            raise _RefusedError(f"{module}.{name}"[:80].replace("\n", " "))
        return admitted[module, name]

    def _reconstruct(self, kind: object, shape: object, code: object) -> NDArray[Any]:
        """Make the empty array that the pickle's next step fills."""
        return _PlainArray((0,), np.uint8)

    def _ndarray(self, *arguments: object) -> None:
        """Pickles name `numpy.ndarray` only as the first argument of `_reconstruct`."""
        raise _RefusedError("a call of numpy.ndarray")

    def _dtype(self, code: object, align: object = False, copy: object = False) -> _PlainDtype:
        return _PlainDtype(code)

    def _encode(self, text: object, encoding: object) -> bytes:
        """Python 3 writes bytes in protocol 2 as text with a codec; only Latin-1 is meant."""
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise _RefusedError(f"the codec {encoding!r:.40}")
        return text.encode("latin1")
