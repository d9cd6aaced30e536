"""Read a published pickle without running what is in it: numpy arrays and plain containers, nothing else.

Python's own unpickler is not used: it allocates a memo as large as an index says, hashes tuples as deep as they are
nested, and writes the state that a pickle brings into any object that it names. The few opcodes of published files
(`pickletools` documents them) are carried out here instead, on values of our own.
No library does: `picklescan` and `fickling` judge a pickle and leave reading it to Python's unpickler.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.bounded import damaged_as
from subsetopt.data.catalog import read_bytes
from subsetopt.data.names import printable
from subsetopt.errors import DataError


def load_plain(path: Path) -> Any:
    """Read dicts, lists, tuples, numbers, bytes and numeric numpy arrays; Python 2 strings come as bytes.

    Raises `DataError` for a pickle that asks for anything else, before that is imported or called, and for one that
    is truncated or malformed. Memory and time are bounded by the size of the file.
    """
    remedy = "delete it and download it again (`subsetopt download`)"
    content = read_bytes(path)
    with damaged_as(f"{path}: not a complete pickle", remedy):
        try:
            return _Machine().run(content)
        except _RefusedError as refusal:
            raise DataError(
                f"{path}: refused, the pickle asks for {refusal} and only numpy arrays and plain containers are read; "
                "download the file again from its publisher (`subsetopt download`)"
            ) from None


class _RefusedError(Exception):
    """Names what the pickle asked for."""


class _Nested(tuple[Any, ...]):
    """A tuple that holds containers."""


class _Internal(tuple[Any, ...]):
    """A tuple with a function or a dtype in it: what an array is made from, and never part of the result."""


class _Array:
    """An array in the making: `_reconstruct` makes it empty, BUILD gives it shape, dtype and bytes."""

    def __init__(self) -> None:
        self.found: NDArray[Any] | None = None

    def build(self, state: object) -> None:
        """Take the state of `ndarray.__reduce__`: version, shape, dtype, Fortran order, bytes."""
        if self.found is not None or not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("an array in another format")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise _RefusedError("a numpy array of objects")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise _RefusedError(f"an array of shape {shape!r:.40}")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {str(shape)[:40]}")
        native = np.frombuffer(content, dtype.dtype).astype(dtype.dtype.newbyteorder("="), copy=False)
        self.found = native.reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """A numeric dtype; of the state that follows it only the byte order is taken."""

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 8 else None
        if dtype is None or dtype.kind not in "buif":
            raise _RefusedError(f"a numpy array of {text!r:.40}")
        self.dtype = dtype

    def build(self, state: object) -> None:
        """Take the state of `dtype.__reduce__`, whose second entry is the byte order."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise _RefusedError("a dtype in another format")
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


def _reconstruct(*arguments: object) -> _Array:
    if len(arguments) != 3:
        raise _RefusedError("an array in another format")
    return _Array()


def _ndarray(*_: object) -> None:
    """Pickles name `numpy.ndarray` only as the first argument of `_reconstruct`."""
    raise _RefusedError("a call of numpy.ndarray")


def _encode(text: object, encoding: object = None) -> bytes:
    """Python 3 writes bytes in protocol 2 as text with a codec; only Latin-1 is meant."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"the codec {encoding!r:.40}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}
_MARK = object()
_MOST_OPCODES = 2_000_000  # the largest published file, CIFAR-100's, has 300 000
# Opcodes that put their argument, or a constant, on the stack; the byte strings of Python 2 come as Latin-1 text.
_ARGUMENT = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    }
)
_LATIN = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_SHORT_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine of pickles, cut down to what builds plain data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._size = 0

    def run(self, content: bytes) -> Any:
        """Carry out all opcodes and return what STOP leaves."""
        self._size = len(content)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= _MOST_OPCODES:
                raise _RefusedError(f"more than {_MOST_OPCODES} opcodes")
            self._step(opcode.name, argument)
        (result,) = self.stack
        _require_plain([result])
        return result

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _ARGUMENT:
            stack.append(argument)
        elif name in _LATIN:
            stack.append(argument.encode("latin1"))
        elif name in _CONSTANT:
            stack.append(_CONSTANT[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > self._size:
                raise ValueError(f"the memo index {argument} in a file of {self._size} bytes")
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            known = self.memo[argument]
            stack.append(known.found if isinstance(known, _Array) and known.found is not None else known)
        elif name == "MARK":
            stack.append(_MARK)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        """Carry out an opcode that makes or fills something."""
        stack = self.stack
        if name in _SHORT_TUPLE:
            self._push_tuple(self._pop(_SHORT_TUPLE[name]))
        elif name == "TUPLE":
            self._push_tuple(self._marked())
        elif name == "LIST":
            items = self._marked()
            _require_plain(items)
            stack.append(items)
        elif name == "DICT":
            items = self._marked()
            stack.append({})
            self._set(items)
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._marked()
            _require_plain(items)
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set(self._pop(2) if name == "SETITEM" else self._marked())
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            where = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
            stack.append(_admitted(*where))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            if not _is_admitted(function) or not isinstance(arguments, tuple):
                raise _RefusedError("a call of what is no function")
            stack.append(function(*arguments))
        elif name == "BUILD":
            (state,) = self._pop(1)
            if not stack or not isinstance(stack[-1], (_Array, _Dtype)):
                raise _RefusedError("an object's state")
            stack[-1].build(state)
            if isinstance(stack[-1], _Array):
                stack[-1] = stack[-1].found
        else:
            raise _RefusedError(f"the opcode {name}")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(item is _MARK for item in self.stack[-count:]):
            raise ValueError("an opcode finds too little on the stack")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("an opcode finds no mark on the stack")
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def _push_tuple(self, items: list[Any]) -> None:
        """Tuples go two deep: hashing deeper ones exhausts the C stack, and no published file has them."""
        if any(isinstance(item, (_Nested, _Internal)) for item in items):
            raise _RefusedError("tuples in tuples in tuples")
        if any(isinstance(item, (_Array, _Dtype)) or callable(item) for item in items):
            self.stack.append(_Internal(items))
        else:
            nested = any(isinstance(item, (tuple, list, dict)) for item in items)
            self.stack.append(_Nested(items) if nested else tuple(items))

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"an opcode finds no {kind.__name__} on the stack")
        return self.stack[-1]

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise ValueError("a dict with a key that has no value")
        if not all(isinstance(key, (str, bytes, int, float, type(None))) for key in keys):
            raise _RefusedError("a dict whose keys are no plain values")
        _require_plain(values)
        target.update(zip(keys, values, strict=True))


def _admitted(module: object, name: object) -> Callable[..., Any]:
    function = _ADMITTED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if function is None:
        raise _RefusedError(printable(f"{module!s:.40}.{name!s:.40}"))
    return function


def _is_admitted(function: object) -> bool:
    return any(function is known for known in _ADMITTED.values())


def _require_plain(values: list[Any]) -> None:
    """Refuse what serves to make an array and is none: an unfinished array, a dtype, a function, their arguments."""
    if any(isinstance(value, (_Array, _Dtype, _Internal)) or callable(value) for value in values):
        raise _RefusedError("a dtype, a function or an unfinished array as a value")
