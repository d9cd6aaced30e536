"""One part of the benchmark: its rows, saved as they come, its time limit, and what to do when a row fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from subsetopt.bench.output import finite
from subsetopt.files import replace_file

Row = dict[str, Any]


@dataclass
class BenchPart:
    """Collects the rows of part `name`; `path` None keeps them in memory alone.

    `deadline` is a reading of `time.monotonic`: rows that would begin later are left out and say so.
    """

    name: str
    device: torch.device
    tiny: bool
    deadline: float
    path: Path | None = None
    title: str = ""
    data: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """True when the part has used up its time."""
        return time.monotonic() >= self.deadline

    @property
    def left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def measure(self, labels: Mapping[str, Any], work: Callable[[Row], None]) -> Row:
        """Let `work` fill in a row that begins with `labels`; what it raises becomes the row's `error`, in one line.

        Everything measured before the failure stays in the row.
        """
        row: Row = dict(labels)
        self.rows.append(row)
        if self.over:
            row["error"] = "left out: the part's time was over"
        else:
            try:
                work(row)
            except Exception as error:
                row["error"] = one_line(error)
                if self.device.type == "cuda" and isinstance(error, torch.OutOfMemoryError):
                    torch.cuda.empty_cache()
        self.save("running")
        return row

    def save(self, status: str, error: str | None = None) -> None:
        """Write the part as it stands."""
        if self.path is not None:
            write_json(self.path, self.document(status, error))

    def document(self, status: str, error: str | None = None) -> dict[str, Any]:
        """Return what the part's file holds."""
        return {
            "part": self.name,
            "title": self.title,
            "status": status,
            "error": error,
            "device": str(self.device),
            "tiny": self.tiny,
            "data": self.data,
            "seconds": round(time.monotonic() - self.began, 2),
            "notes": self.notes,
            "rows": self.rows,
        }


def one_line(error: BaseException) -> str:
    """Return kind and first line of an error, 200 characters at most."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace `path` by the document, whole or not at all; NaN and infinities become null."""
    replace_file(path, (json.dumps(finite(document), indent=1) + "\n").encode())
