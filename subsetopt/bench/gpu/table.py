"""All parts as one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def page(environment: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> str:
    """Return a section per part: what was measured, on what, one line per row, and what failed."""
    lines = ["# What only a GPU can show", "", _where(environment)]
    for part in parts:
        lines += ["", f"## {part['part']}: {part['title'] or 'nothing measured'}", ""]
        lines += [f"Data: {part['data']}."] if part["data"] else []
        lines += [f"Note: {note}." for note in part["notes"]]
        if part["status"] != "done":
            lines.append(f"**{part['status']}**: {part['error'] or 'no reason known'}")
        lines += ["", *table(part["rows"])] if part["rows"] else []
        lines += ["", f"{part['seconds']:.0f} s."]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table whose columns are the keys of all rows, errors last."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("note", "error")))
    columns += [key for key in ("note", "error") if any(key in row for row in rows)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _where(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    card = environment.get("card") or environment.get("device", "unknown device")
    facts = [str(card), f"torch {packages.get('torch')}", f"CUDA {environment.get('cuda')}"]
    facts += [f"driver and clocks {environment['driver']}"] if environment.get("driver") else []
    return "; ".join([*facts, f"Python {environment.get('python')}", f"{environment.get('cpus')} CPUs"]) + "."
