"""Tensor files: read by the safetensors library, written from where the tensors are, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from subsetopt.training import saved_tensors
from subsetopt.training.run_directory import CHECKPOINT, RunDirectory
from subsetopt.training.saved_tensors import TensorFile, from_file

TENSORS: dict[str, Tensor] = {
    "w": torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "byte": torch.tensor([1, 2, 255], dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat": torch.ones(1, dtype=torch.bfloat16),
    "truth": torch.tensor([True, False, True]),
    "whole": torch.arange(4).reshape(2, 2),
    "int32": torch.arange(3, dtype=torch.int32),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
    "turned": torch.arange(12.0).reshape(3, 4).t(),
    "every other": torch.arange(8.0)[::2],
    "repeated": torch.ones(1).expand(4),
    "empty": torch.empty(0, 3),
    "number": torch.tensor(2.5),
    'odd/"name"\n\N{SNOWMAN}': torch.zeros(1),
}
STATE: dict[str, Any] = {"text": '\N{SNOWMAN}"\n', "loss": 0.1 + 0.2, "lone": "\ud800"}


def written(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(TensorFile(tensors, state).pieces()))
    return path


def test_the_safetensors_library_reads_what_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "a", TENSORS, {**STATE, "lone": ""})
    found = safetensors.torch.load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_tensors_and_state_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors, state = from_file(written(tmp_path / "a", TENSORS, STATE))
    assert state == STATE
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert from_file(written(tmp_path / "b", {}, {})) == ({}, {})


def test_what_is_copied_piece_by_piece_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path / "a", TENSORS, STATE).read_bytes()
    monkeypatch.setattr(saved_tensors, "PIECE_BYTES", 8)
    assert written(tmp_path / "b", TENSORS, STATE).read_bytes() == whole
    reordered = dict(reversed(TENSORS.items()))
    assert written(tmp_path / "c", reordered, STATE).read_bytes() == whole


def test_a_file_of_the_library_and_one_of_ours_with_every_bit_changed_are_told_apart(tmp_path: Path) -> None:
    """Any changed byte behind the header is found by the digest."""
    path = written(tmp_path / "a", {"w": torch.arange(3.0)}, {})
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 12, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(saved_tensors.DamagedError, match="corrupt"):
            from_file(path)


def test_tensors_are_written_from_where_they_are() -> None:
    w = torch.ones(1000)
    *_, last = TensorFile({"w": w}, {}).pieces()
    assert np.shares_memory(np.frombuffer(last, np.uint8), w.numpy())


def test_a_dtype_that_the_format_lacks_is_named() -> None:
    with pytest.raises(TypeError, match="complex128"):
        list(TensorFile({"z": torch.zeros(1, dtype=torch.complex128)}, {}).pieces())


WRITER = """
import os, resource, signal, sys
from pathlib import Path
import torch
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.saved_tensors import TensorFile
directory = RunDirectory(Path(sys.argv[1]))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
KILLED = """
pieces = TensorFile.pieces
def dying(self):
    for count, piece in enumerate(pieces(self)):
        if count == int(sys.argv[2]):
            yield piece[: len(piece) // 2]
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece
directory.save_checkpoint({"w": torch.ones(9000), "v": torch.ones(3)}, {"step": 1})
TensorFile.pieces = dying
directory.save_checkpoint({"w": torch.zeros(9000), "v": torch.ones(3)}, {"step": 2})
"""
MEASURED = """
tensors = {"rows": torch.ones(50, 10**6), "w": torch.ones(10**6)}
directory.save_checkpoint({"w": tensors["w"]}, {})
before = peak()
directory.save_checkpoint(tensors, {})
print(peak() - before)
del tensors
tensors, _ = directory.load_checkpoint()
print(peak() - before)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WRITER + code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("piece", ["0", "1", "2"])
def test_a_process_killed_within_a_write_leaves_the_checkpoint_of_before(tmp_path: Path, piece: str) -> None:
    """Within the header, the first tensor and the second."""
    run = RunDirectory.create(tmp_path / "run", "stem", {})
    assert python(KILLED, str(run.path), piece).returncode == -9
    assert [path.name for path in run.path.glob(f".{CHECKPOINT}.*.tmp")], "it died within the write"
    loaded = run.load_checkpoint()
    assert loaded is not None and loaded[1] == {"step": 1} and bool(loaded[0]["w"].all())
    run.prepare_to_go_on()
    assert not list(run.path.glob(".*.tmp"))


def test_writing_and_reading_a_checkpoint_take_no_memory_beside_its_tensors(tmp_path: Path) -> None:
    """200 MB of tensors; their copies once took 600 MB, and those of what was read 200 MB."""
    run = RunDirectory.create(tmp_path / "run", "stem", {})
    done = python(MEASURED, str(run.path))
    assert done.returncode == 0, done.stderr
    assert all(int(more) < 20_000 for more in done.stdout.split()), f"{done.stdout} KiB"
