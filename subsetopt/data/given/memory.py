"""How much memory is free, as far as the operating system tells."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN = 4 * 2**30
"""Bytes taken to be free where the system does not tell."""


def free_bytes() -> int:
    """Return the bytes that can be had without swapping: Linux's MemAvailable, else pages that are free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN
