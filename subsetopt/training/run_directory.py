"""The run directory: everything a run leaves behind, each file written whole or not at all.

No pickle is written or read. The checkpoint carries its own state in the safetensors header, so that tensors and
numbers can never come from two different moments; `state.json` is a copy for people.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import safetensors
import safetensors.torch
import tomli_w
from torch import Tensor

from subsetopt.errors import RunDirectoryError
from subsetopt.files import replace_file

CONFIG, METRICS, CHECKPOINT, STATE = "config.toml", "metrics.jsonl", "checkpoint.safetensors", "state.json"
MODEL, RESULT, ENVIRONMENT, LOG = "model.safetensors", "result.json", "environment.json", "log.txt"
BEST = "model-best.safetensors"
LOCK = ".lock"


class RunDirectory:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None, stem: str, config: Mapping[str, Any]) -> RunDirectory:
        """Make a new directory (`runs/STEM-N` when `path` is None); raises `RunDirectoryError` if it exists."""
        if path is None:
            return cls._create_numbered(Path("runs"), stem, config)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            problem = "exists already" if path.is_dir() else "is a file"
            raise RunDirectoryError(
                f"output = {str(path)!r}: {problem}; choose another --output, or `subsetopt resume {path}`"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"output = {str(path)!r}: cannot be created ({error.strerror}); choose another --output"
            ) from None
        directory = cls(path)
        directory.write_toml(CONFIG, config)
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
        if not (path / CONFIG).is_file():
            problem = f"has no {CONFIG}" if path.is_dir() else "is not a directory"
            raise RunDirectoryError(f"run = {str(path)!r}: {problem}; give the --output directory of `subsetopt train`")
        return cls(path)

    @contextmanager
    def sole_user(self) -> Iterator[None]:
        """Keep other processes out until the end; raises `RunDirectoryError` when one is at work here.

        The lock ends with the process, however that ends. Where the file system has no locks, nothing is kept out.
        """
        lock = filelock.FileLock(self.path / LOCK, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise RunDirectoryError(
                f"output = {str(self.path)!r}: another process works there; wait for it, or choose another --output"
            ) from None
        except (NotImplementedError, OSError):
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file of the run, whole or not at all."""
        replace_file(self.path / name, data, f"make room, then `subsetopt resume {self.path}`")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file; non-finite numbers become null."""
        self.write_bytes(name, (json.dumps(finite(content), indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run; raises `RunDirectoryError` when it is missing or corrupt."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"run = {str(self.path)!r}: {name} cannot be read ({error})") from None

    def write_toml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a TOML file, leaving out settings that are None."""
        self.write_bytes(name, tomli_w.dumps(_without_none(content)).encode())

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write tensors and state as one atomic file, then the readable copy of the state."""
        text = json.dumps(state)
        owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self.write_bytes(CHECKPOINT, safetensors.torch.save(owned, metadata={"state": text}))
        self.write_bytes(STATE, (json.dumps(finite(state), indent=1) + "\n").encode())

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last checkpoint, or None when the run was stopped before its first."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                # A clone has torch's own alignment in memory; sums over it round as they did before it was saved.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
                return tensors, json.loads(file.metadata()["state"])
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise RunDirectoryError(
                f"run = {str(self.path)!r}: {CHECKPOINT} is corrupt ({error}); train anew"
            ) from None

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write named tensors (a model's state_dict) atomically."""
        owned = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        self.write_bytes(name, safetensors.torch.save(owned))

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Read named tensors; raises `RunDirectoryError` when they are missing or corrupt."""
        try:
            return safetensors.torch.load((self.path / name).read_bytes())
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise RunDirectoryError(
                f"run = {str(self.path)!r}: {name} cannot be read ({error}); is the run finished? "
                f"`subsetopt resume {self.path}`"
            ) from None

    def append(self, name: str, line: str) -> int:
        """Append one line and return the file's length in bytes afterwards."""
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                return file.tell()
        except OSError as error:
            raise RunDirectoryError(f"output = {str(self.path / name)!r}: cannot be written ({error.strerror}); "
                                    f"make room, then `subsetopt resume {self.path}`") from None  # fmt: skip

    def truncate(self, name: str, length: int) -> None:
        """Cut a file back to `length` bytes, dropping lines written after the checkpoint."""
        path = self.path / name
        if path.exists():
            os.truncate(path, min(length, path.stat().st_size))


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
