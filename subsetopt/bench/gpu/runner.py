"""Runs the parts one after another, each in a process of its own: none can crash, hang or slow down another."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from subsetopt.bench.gpu.environment import environment
from subsetopt.bench.gpu.part import BenchPart, one_line, write_json
from subsetopt.bench.gpu.table import page
from subsetopt.files import replace_file

PARTS = {"products": 45.0, "iterations": 28.0, "eigen": 25.0, "epochs": 38.0, "race": 58.0, "solve": 38.0}
"""Seconds that each part may take, its start included; together under four minutes. What one leaves, later ones get."""

ENVIRONMENT = "bench-environment.json"
SOFT = 0.8  # of its seconds a part spends on new rows; the rest lets the last one end
ENDING = 2.0  # seconds kept for the page


def run_parts(
    output: Path, parts: Sequence[str], seconds_per_part: float | None, total: float, tiny: bool, device: str
) -> list[dict[str, Any]]:
    """Run `parts` within `total` seconds; write bench-environment.json, a JSON file and a log per part, and table.md.

    What a part has measured before it fails, or before its time is over, is kept.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / ENVIRONMENT).unlink(missing_ok=True)
    end = time.monotonic() + total - ENDING
    documents: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for index, name in enumerate(parts):
        left = end - time.monotonic()
        limit = max(PARTS[name], left - sum(PARTS[later] for later in parts[index + 1 :]))
        limit = min(left, limit if seconds_per_part is None else seconds_per_part)
        documents.append(_run_part(output, name, limit, tiny, device))
        about = _read(output / ENVIRONMENT) or {"device": device}
        replace_file(output / "table.md", page(about, documents).encode())
        print(_summary(documents[-1]), file=sys.stderr, flush=True)
    return documents


def work_on(output: Path, name: str, limit: float, tiny: bool, device: str) -> int:
    """Measure part `name` here, in the process made for it; returns the exit code."""
    where = torch.device(device)
    part = BenchPart(name, where, tiny, time.monotonic() + SOFT * limit, output / f"{name}.json")
    part.save("running")
    if not (output / ENVIRONMENT).exists():
        write_json(output / ENVIRONMENT, environment(where))
    try:
        importlib.import_module(f"subsetopt.bench.gpu.{name}").measure(part)
    except Exception as error:
        traceback.print_exc()
        part.save("failed", one_line(error))
        return 1
    part.save("done")
    return 0


def _run_part(output: Path, name: str, limit: float, tiny: bool, device: str) -> dict[str, Any]:
    path, log = output / f"{name}.json", output / f"{name}.log"
    path.unlink(missing_ok=True)
    nothing = BenchPart(name, torch.device(device), tiny, time.monotonic())
    if limit <= 0:
        return _kept(path, nothing, "failed", "left out: the time of all parts was over")
    command = [sys.executable, "-m", "subsetopt.bench.gpu", str(output), "--work-on", name, "--device", device]
    command += ["--seconds-per-part", str(limit), *(["--tiny"] if tiny else [])]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return _kept(path, nothing, "timed out", f"ended after {limit:.0f} s")
        finally:
            _end(process)
    if code:
        return _kept(path, nothing, "failed", _read(path).get("error") or f"exit code {code}, see {log.name}")
    return _kept(path, nothing, "done", None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the part and whatever it has started, such as compilers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _kept(path: Path, nothing: BenchPart, status: str, error: str | None) -> dict[str, Any]:
    """Return and write what the part has left, with how it ended."""
    document = {**nothing.document(status, error), **_read(path), "status": status, "error": error}
    write_json(path, document)
    return document


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document


def _summary(document: dict[str, Any]) -> str:
    rows = document["rows"]
    failed = sum("error" in row for row in rows)
    tail = f": {document['error']}" if document["error"] else ""
    return f"{document['part']}: {document['status']}, {len(rows) - failed} rows, {failed} with errors{tail}"
