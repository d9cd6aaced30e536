"""What fuzz tests share: mutations of well-formed bytes, and the rule that a reader returns or tells in one line."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from subsetopt.errors import UserError

_EXTREMES = [b"\xff" * 4, b"\x7f" + b"\xff" * 3, bytes(4), b"\xff\xff\xff\x7f", b"\x80" * 8]
EXAMPLES, MANY = 60, 3000
PEAK_BYTES = 128 * 2**20
_SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def examples(count: int) -> hypothesis.settings:
    """Return the settings of a fuzz test with `count` inputs: the same in every run, none over 10 seconds."""
    return hypothesis.settings(
        max_examples=count,
        deadline=10_000,
        derandomize=count == EXAMPLES,
        database=None,
        suppress_health_check=_SUPPRESSED,
    )


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Flip, cut, repeat, insert and overwrite bytes of `content`, with a taste for lengths and extremes."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(raw) - 1)))
        kind = draw(st.sampled_from(["set", "extreme", "cut", "insert", "repeat", "drop"]))
        if kind == "set":
            raw[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "extreme":
            patch = draw(st.sampled_from(_EXTREMES))
            raw[place : place + len(patch)] = patch
        elif kind == "cut":
            del raw[place:]
        elif kind == "insert":
            raw[place:place] = draw(st.binary(max_size=16))
        elif kind == "repeat":
            raw[place:place] = raw[place : place + draw(st.integers(1, 64))] * draw(st.integers(1, 20))
        else:
            del raw[place : place + draw(st.integers(1, 32))]
    return bytes(raw)


def read_or_refuse(read: Callable[[], Any], folder: Path, peak_bytes: int = PEAK_BYTES) -> bool:
    """Call `read`: it returns (True) or raises a one-line `UserError` (False), in little memory, leaving no file."""
    before = _files(folder)
    tracemalloc.start()
    try:
        read()
        refused = None
    except UserError as error:
        refused = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < peak_bytes, f"{peak} bytes"
    assert refused is None or (refused and "\n" not in refused and refused.isprintable()), refused
    assert _files(folder) == before
    return refused is None


def _files(folder: Path) -> set[str]:
    return {os.fsdecode(path) for path in folder.rglob("*") if ".subsetopt-cache" not in path.parts}
