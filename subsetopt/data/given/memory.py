"""How much memory is free, as far as the operating system tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from subsetopt.errors import SettingError

if TYPE_CHECKING:
    import torch

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


def require_room(name: str, value: object, needed: float, remedy: str, device: torch.device | None = None) -> None:
    """Raise `SettingError` where setting `name` asks for more bytes than there are.

    On the host those that are free count, on a GPU all that it has: what is free there is torch's to say.
    """
    if device is not None and device.type == "cuda":
        import torch

        there = torch.cuda.get_device_properties(device).total_memory
    elif device is None or device.type == "cpu":
        there = free_bytes()
    else:
        return
    if needed > there:
        problem = f"needs {needed / 2**30:.3g} GiB of memory, {there / 2**30:.3g} are there"
        raise SettingError(name, value, problem, remedy)
