"""Run directories: whole files or none, exact checkpoints, one-line errors."""

import errno
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from subsetopt.errors import RunDirectoryError, command_line
from subsetopt.training.run_directory import CHECKPOINT, METRICS, MODEL, RESULT, STATE, RunDirectory


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path / "run", "stem", {"seed": 1, "nothing": None, "args": {"a": "b"}})


def test_checkpoint_restores_every_bit(directory):
    tensors = {
        "w": torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "random": torch.Generator().manual_seed(1).get_state(),
        "empty": torch.empty(0, 3),
    }
    numbers = {"loss": 0.1 + 0.2, "tiny": 5e-324, "worst": math.inf, "reason": None, "steps": 3}
    directory.save_checkpoint(tensors, numbers)
    loaded, state = RunDirectory.open(directory.path).load_checkpoint()
    assert state == numbers
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_tensors_that_share_memory_are_saved_apart(directory):
    w = torch.arange(4.0)
    directory.save_checkpoint({"w": w, "best_w": w}, {})
    tensors, _ = directory.load_checkpoint()
    assert torch.equal(tensors["w"], tensors["best_w"])


def test_equal_tensors_are_written_once_and_come_back_apart(directory):
    """Equal are bits, dtype and shape: -0 is not 0, and NaN is NaN."""
    w = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    w[1, 1], zeros = math.nan, torch.zeros(400)
    tensors = {
        "w": w,
        "a/copy": w.clone(),
        "turned": w.t().contiguous().t(),
        "other shape": w.reshape(300, 5),
        "other dtype": w.view(torch.int32),
        "zeros": zeros,
        "minus zeros": -zeros,
        "more zeros": torch.zeros(1, 20, 20)[0].reshape(-1),
        "late": torch.cat([zeros[:-1], torch.ones(1)]),
        "small": torch.ones(2),
        "smaller": torch.ones(2),
    }
    directory.save_checkpoint(tensors, {"loss": 1.0})
    file = directory.path / CHECKPOINT
    with safe_open(file, framework="pt") as content:
        stored = set(content.keys())
    assert tensors.keys() - stored == {"w", "turned", "zeros"}, "the first of equal ones by name is kept"
    assert json.loads((directory.path / STATE).read_text())["same"]["zeros"] == "more zeros"
    loaded, state = directory.load_checkpoint()
    assert state == {"loss": 1.0} and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert loaded[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert len({tensor.data_ptr() for tensor in loaded.values()}) == len(tensors), "each may be changed in place"


def test_a_failed_write_leaves_the_old_file_and_no_temporary(directory, monkeypatch):
    directory.save_checkpoint({"w": torch.ones(3)}, {"step": 1})

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunDirectoryError, match=r"No space left on device.*resume"):
        directory.save_checkpoint({"w": torch.zeros(3)}, {"step": 2})
    monkeypatch.undo()
    tensors, state = directory.load_checkpoint()
    assert state == {"step": 1}
    assert torch.equal(tensors["w"], torch.ones(3))
    assert not list(directory.path.glob(".*tmp"))


def test_existing_output_is_refused_and_untouched(directory):
    before = sorted(path.name for path in directory.path.iterdir())
    with pytest.raises(RunDirectoryError, match="exists already"):
        RunDirectory.create(directory.path, "stem", {})
    assert sorted(path.name for path in directory.path.iterdir()) == before


def test_output_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.create(tmp_path / "file" / "run", "stem", {})
    assert "\n" not in str(caught.value)


def test_numbered_directories_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (RunDirectory.create(None, "digits-mlp", {}) for _ in range(2))
    assert (first.path, second.path) == (Path("runs/digits-mlp-1"), Path("runs/digits-mlp-2"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\x00" * 100])
def test_corrupt_checkpoint_is_one_line(directory, damage):
    directory.save_checkpoint({"w": torch.ones(300)}, {})
    path = directory.path / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunDirectoryError, match="corrupt") as caught:
        directory.load_checkpoint()
    assert "\n" not in str(caught.value)


def test_opening_what_is_no_run_names_the_path(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"nowhere.*is not a directory"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="has no config"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize(("name", "typed"), [("my run", "'my run'"), ("a;b", "'a;b'"), ("-dash", "./-dash")])
def test_a_command_in_a_remedy_may_be_pasted(name, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.create(Path(name), "x", {})
    with command_line(["train"]):
        with pytest.raises(RunDirectoryError, match=re.escape(f"or `subsetopt resume {typed}`")):
            RunDirectory.create(Path(name), "x", {})
        with pytest.raises(RunDirectoryError, match=re.escape(f"`subsetopt resume {typed}`")):
            directory.load_tensors(MODEL)
    with pytest.raises(RunDirectoryError, match=re.escape(f"or SubsetTrainer.resume({name!r})")):
        RunDirectory.create(Path(name), "x", {})


def test_nobody_is_asked_to_remove_a_folder_with_files(tmp_path):
    (tmp_path / "home" / "letters").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name, problem in (
        ("home", "exists already and holds other files than a run's; choose another"),
        ("empty", "exists already and is empty; remove it, or"),
        ("link", "is a link to nothing; choose another"),
    ):
        with pytest.raises(RunDirectoryError, match=problem):
            RunDirectory.create(tmp_path / name, "x", {})


def test_a_removed_folder_is_no_full_disk(directory):
    shutil.rmtree(directory.path)
    for write in (lambda: directory.write_json(RESULT, {}), lambda: directory.append(METRICS, "{}")):
        with pytest.raises(RunDirectoryError, match=r"its folder was removed or renamed meanwhile: put it back"):
            write()


def test_a_folder_that_may_not_be_written_is_no_full_disk(directory, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(RunDirectoryError, match=r"Read-only file system\); make its folder writable, then SubsetT"):
        directory.write_json(RESULT, {})
