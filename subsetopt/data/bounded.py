"""Read files whose headers may lie: nothing is unpacked or allocated that the bytes of the file cannot account for."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import printable
from subsetopt.errors import DataError

MOST_PACKED = 100
"""Data that are packed more tightly than this many times are taken for a bomb, from `SUSPECT_BYTES` on."""

SUSPECT_BYTES = 256 * 2**20

_BLOCK = 2**20
_LONGEST_HEADER = 10_000  # numpy's own limit
_MAGIC = b"\x93NUMPY"


class Readable(Protocol):
    """What gives bytes: a file, a member of an archive, a gzip stream."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to `size` bytes."""
        ...


@contextmanager
def damaged_as(problem: str, remedy: str) -> Iterator[None]:
    """Tell whatever a damaged file makes its reader raise as one `DataError`: `problem (reason); remedy`.

    Zip, gzip and pickle readers raise anything from `IndexError` to `MemoryError` on bytes that nobody wrote.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{problem} ({printable(reason)}); {remedy}") from error


def require_no_bomb(unpacked: int, packed: int) -> None:
    """Raise `ValueError` where the unpacked size is beyond what data have been seen to shrink by, or beyond memory."""
    if unpacked > SUSPECT_BYTES and unpacked > MOST_PACKED * packed:
        raise ValueError(f"{packed} bytes that unpack to {unpacked}, more than {MOST_PACKED} times as many")
    memory = _memory()
    if memory is not None and unpacked > memory:
        raise ValueError(f"unpacks to {unpacked} bytes, this machine has {memory} of memory")


def read_exactly(file: Readable, size: int) -> bytearray:
    """Return the `size` bytes that follow, growing block by block; raises `ValueError` where there are other ones."""
    content = bytearray()
    while len(content) < size:
        block = file.read(min(_BLOCK, size - len(content)))
        if not block:
            raise ValueError(f"holds {len(content)} bytes, its header says {size}")
        content += block
    if file.read(1):
        raise ValueError(f"holds more than the {size} bytes that its header says")
    return content


def read_npy_header(file: Readable) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return (shape, fortran_order, dtype, bytes read) of a `.npy` stream; raises `ValueError` for anything unsound."""
    start = file.read(8)
    if start[:6] != _MAGIC or start[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError("it does not begin like a numeric .npy file")
    version = start[6]
    length = file.read(2 if version == 1 else 4)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise ValueError(f"its header has {size} bytes")
    parse = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(io.BytesIO(length + file.read(size)))
    if any(isinstance(side, bool) or side < 0 for side in shape) or len(shape) > 32:
        raise ValueError(f"its header tells the shape {str(shape)[:60]}")
    return shape, fortran, dtype, 8 + len(length) + size


def read_npy(file: Readable, size: int, packed: int) -> NDArray[Any]:
    """Read a `.npy` stream of `size` bytes, stored in `packed`; raises `ValueError` for a header that tells others."""
    shape, fortran, dtype, header = read_npy_header(file)
    if dtype.hasobject:
        raise ObjectsError
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != size - header:
        raise ValueError(f"its header tells the shape {str(shape)[:60]}, {wanted} bytes, and it has {size - header}")
    require_no_bomb(size, packed)
    content = read_exactly(file, wanted)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


class ObjectsError(ValueError):
    """An array of Python objects, which only unpickling would read."""


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
