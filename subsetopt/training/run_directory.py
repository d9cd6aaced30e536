"""The run directory: everything a run leaves behind, each file written whole or not at all.

No pickle is written or read. The checkpoint carries its own state in the safetensors header, so that tensors and
numbers can never come from two different moments; `state.json` is a copy for people.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import tomli_w
from torch import Tensor

from subsetopt.errors import RunDirectoryError, given, setting, typed
from subsetopt.files import (
    cannot_be_written,
    check_writable,
    holder_of,
    read_document,
    reason,
    remove_temporary,
    replace_file,
    replace_file_by,
    sealed,
)
from subsetopt.report.metrics_file import is_record
from subsetopt.report.result_file import result_content
from subsetopt.training.going_on import CONFIG as CONFIG
from subsetopt.training.going_on import resuming
from subsetopt.training.saved_tensors import DamagedError, TensorFile, apart, from_file

METRICS, CHECKPOINT, STATE = "metrics.jsonl", "checkpoint.safetensors", "state.json"
MODEL, RESULT, ENVIRONMENT, LOG = "model.safetensors", "result.json", "environment.json", "log.txt"
FIGURE = "loss.png"
BEST = "model-best.safetensors"
LOCK = ".lock"
STUDY = "study.toml"
_SOMEONE = "another process"
SAME = "same"
"""Entry of a checkpoint's state: names of tensors that are stored under another name, whose bits they have."""
_WRITTEN = (METRICS, CHECKPOINT, STATE, MODEL, BEST, RESULT, LOG, ENVIRONMENT, FIGURE)


class RunDirectory:
    """Reads and writes the files of one run, or of a study; `remedy` is for files that cannot be written."""

    def __init__(self, path: Path, remedy: str | None = None) -> None:
        self.path = path
        self._own_remedy = remedy

    @classmethod
    def create(cls, path: Path | None, stem: str, config: Mapping[str, Any]) -> RunDirectory:
        """Make a new directory (`runs/STEM-N` when `path` is None); raises `RunDirectoryError` if it exists."""
        if path is None:
            return cls._create_numbered(Path("runs"), stem, config)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise RunDirectoryError(f"{given('output', path)}: {_why_taken(path)}") from None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{given('output', path)}: cannot be created ({reason(error)}); choose another {setting('output')}"
            ) from None
        directory = cls(path)
        try:
            directory.write_toml(CONFIG, config)
        except RunDirectoryError:
            with contextlib.suppress(OSError):
                path.rmdir()  # without its settings it is no run, and in the way of the next try
            raise
        return directory

    @classmethod
    def _create_numbered(cls, parent: Path, stem: str, config: Mapping[str, Any]) -> RunDirectory:
        number = 1
        while True:
            candidate = parent / f"{stem}-{number}"
            if not candidate.exists():
                with contextlib.suppress(FileExistsError):
                    return cls.create(candidate, stem, config)
            number += 1

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run; raises `RunDirectoryError` when it is none."""
        if not os.path.isfile(path / CONFIG):  # noqa: PTH113 (false, where Path.is_file raises on a NUL or a long name)
            problem = f"has no {CONFIG}" if os.path.isdir(path) else "is not a directory"  # noqa: PTH112
            remedy = "give the directory that a run was written to"
            if os.path.isfile(path / STUDY):  # noqa: PTH113
                problem, remedy = (
                    "holds a study",
                    f"give one of its runs, in {path / 'cells'}, or `subsetopt report {typed(path)}`",
                )
            raise RunDirectoryError(f"run = {str(path)!r}: {problem}; {remedy}")
        return cls(path)

    @contextmanager
    def sole_user(self, *, going_on: bool = False) -> Iterator[None]:
        """Keep other processes out until the end; raises `RunDirectoryError` when one is at work here.

        The lock ends with the process, however that ends. Where the file system has no locks, nothing is kept out.
        `going_on` is for a directory that was there before, where another one is no remedy.
        """
        lock = filelock.FileLock(self.path / LOCK)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise RunDirectoryError(self._in_use(going_on)) from None
        except (NotImplementedError, OSError):
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _in_use(self, going_on: bool) -> str:
        process = self.user
        if not going_on:
            remedy = f"wait for it, or choose another {setting('output')}"
            return f"{given('output', self.path)}: {process} works there; {remedy}"
        stop = f", or stop it with `kill {process.split()[-1]}`, which saves it" if process != _SOMEONE else ""
        return f"run = {str(self.path)!r}: {process} works there; wait for it{stop}"

    @property
    def user(self) -> str:
        """What works here now, in words: a process by its number, as far as the system tells."""
        number = holder_of(self.path / LOCK)
        return _SOMEONE if number is None else f"process {number}"

    @property
    def in_use(self) -> bool:
        """Whether a process works here now; False where there is nothing, or the file system has no locks."""
        if not (self.path / LOCK).is_file():
            return False
        try:
            with self.sole_user():
                return False
        except RunDirectoryError:
            return True

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file of the run, whole or not at all."""
        replace_file(self.path / name, data, self._remedy)

    @property
    def _remedy(self) -> str:
        return self._own_remedy or f"make room, then {resuming(self.path)}"

    def prepare_to_go_on(self) -> None:
        """Raise `RunDirectoryError` for whatever could not be written later, and remove what a crash left half-written.

        Call it as `sole_user`.
        """
        check_writable(self.path, _WRITTEN)
        remove_temporary(self.path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with its digest; non-finite numbers become null."""
        self.write_bytes(name, (json.dumps(sealed(finite(content)), indent=2) + "\n").encode())

    def read_json(self, name: str, remedy: str = "train anew", *, unchanged: bool = True) -> dict[str, Any]:
        """Read a JSON object; raises `RunDirectoryError` when it is missing, corrupt or, with `unchanged`, edited."""
        return read_document(self.path / name, f"run = {str(self.path)!r}", remedy, unchanged=unchanged)

    def read_result(self) -> dict[str, Any]:
        """Return `result.json`; raises `RunDirectoryError` where the run is not finished, or the file is damaged."""
        remedy = f"finish it: {resuming(self.path)}"
        return result_content(self.path, f"wait for {self.user}, which works there" if self.in_use else remedy)

    def write_toml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a TOML file, leaving out settings that are None."""
        self.write_bytes(name, tomli_w.dumps(_without_none(content)).encode())

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write tensors and state as one atomic file with its digest, then the readable copy of the state.

        Of equal tensors the first is written; where the others are is an entry of the state.
        """
        kept, same = apart(tensors)
        text = self._write_tensors(CHECKPOINT, kept, {**state, SAME: same} if same else state)
        self.write_bytes(STATE, (json.dumps(finite(json.loads(text)), indent=1) + "\n").encode())

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last checkpoint, or None when the run was stopped before its first."""
        if not os.path.lexists(self.path / CHECKPOINT):
            return None
        tensors, state = self._load(CHECKPOINT, f"restore it, or remove it to begin anew with {CONFIG}")
        if state is None:
            raise RunDirectoryError(f"run = {str(self.path)!r}: {CHECKPOINT} has no state; train anew")
        for name, first in state.pop(SAME, {}).items():
            tensors[name] = tensors[first].clone()  # a state may change one of them in place
        return tensors, state

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write named tensors (a model's state_dict) atomically, with what ties them to their run."""
        self._write_tensors(name, tensors, state)

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
        file = TensorFile(tensors, state)
        replace_file_by(self.path / name, file.pieces(), self._remedy)
        return file.text

    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """Read named tensors and what was saved beside; raises `RunDirectoryError` when missing, corrupt or changed."""
        return self._load(name, f"finish the run, or restore the file: {resuming(self.path)}")

    def _load(self, name: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        try:
            return from_file(self.path / name)
        except DamagedError as error:
            raise RunDirectoryError(f"run = {str(self.path)!r}: {name} {error}; {remedy}") from None

    def append(self, name: str, line: str) -> int:
        """Append one line and return the file's length in bytes afterwards."""
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                return file.tell()
        except OSError as error:
            raise RunDirectoryError(cannot_be_written(self.path / name, error, self._remedy)) from None

    def cut_metrics(self, length: int, warn: Callable[[str], None]) -> int:
        """Drop the lines written after the checkpoint, beyond `length` bytes, and return the file's length.

        Lines that are no longer what a run writes are dropped too, with a warning by `warn`: they serve the curves
        alone, and the run goes on without them.
        """
        path = self.path / METRICS
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise RunDirectoryError(f"run = {str(self.path)!r}: {METRICS} cannot be read ({reason(error)})") from None
        lines = content[:length].splitlines(keepends=True)
        kept = b"".join(line for line in lines if line.endswith(b"\n") and is_record(line))
        if len(kept) < length:
            lost = f"{length - len(kept)} of {length} bytes of {METRICS} are missing or damaged"
            warn(f"{lost}: the curves lack these iterations, the training does not")
        if kept != content or not path.exists():
            self.write_bytes(METRICS, kept)
        return len(kept)


def _why_taken(path: Path) -> str:
    """Return why a new run cannot go to `path`, which exists, and what to do."""
    if not path.is_dir():
        what = "is a link to nothing" if path.is_symlink() and not path.exists() else "is a file"
        return f"{what}; choose another {setting('output')}"
    if (path / CONFIG).is_file():
        return f"exists already; choose another {setting('output')}, or {resuming(path)}"
    if any(path.iterdir()):  # which may be a home directory: nobody is to remove it
        return f"exists already and holds other files than a run's; choose another {setting('output')}"
    return f"exists already and is empty; remove it, or choose another {setting('output')}"


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None throughout, because JSON has neither."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return str(value) if isinstance(value, Path) else value
