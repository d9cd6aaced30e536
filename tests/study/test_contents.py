"""A study knows what its cells were computed with. Reference: the cells themselves, which must not be mixed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from subsetopt.compare.config import make_study
from subsetopt.compare.run import run_comparison
from subsetopt.errors import RunDirectoryError
from subsetopt.representativeness.run import Plan, run_representativeness
from subsetopt.study.contents import CONTENTS, require_same
from subsetopt.training import make_config, train
from subsetopt.training.preparation import prepare
from subsetopt.training.run_directory import MODEL, RunDirectory

FACTORY = """
import numpy, torch

CHANGE = torch.tanh

class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)
        # Nothing that one seed sets: another start in every process.
        self.layer.weight.data.copy_(torch.from_numpy(numpy.random.default_rng().normal(size=(outputs, inputs))))

    def forward(self, x):
        return CHANGE(self.layer(x))

def make(in_shape, n_outputs):
    return Net(in_shape[0], n_outputs)
"""


def write(file: Path, shift: float = 0.0) -> None:
    x = np.cos(np.linspace(-1, 1 + shift, 360).reshape(90, 4)).astype(np.float32)
    y = np.arange(90) % 2
    np.savez(file, x_train=x, y_train=y, x_test=x[:40] + 1, y_test=y[:40])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hostile_zoo.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "hostile_zoo", raising=False)
    write(tmp_path / "d.npz")
    return {"dataset": "npz", "data_file": str(tmp_path / "d.npz"), "model": "hostile_zoo:make"}


def same(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "study").mkdir(exist_ok=True)
    require_same(RunDirectory(tmp_path / "study"), prepare(make_config(settings)))


def test_equal_contents_are_taken_wherever_they_lie(tmp_path: Path, settings: dict[str, Any]) -> None:
    same(tmp_path, settings)
    shutil.copy(tmp_path / "d.npz", tmp_path / "e.npz")
    same(tmp_path, {**settings, "data_file": str(tmp_path / "e.npz")})
    same(tmp_path, {**settings, "seed": 1})  # another problem, of its own record
    for content in ("", "{", "[]", '{"x": 3}'):
        (tmp_path / "study" / CONTENTS).write_text(content)
        same(tmp_path, settings)
    (tmp_path / "study" / CONTENTS).unlink()
    same(tmp_path, settings)


def test_another_forward_pass_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    same(tmp_path, settings)
    module = sys.modules["hostile_zoo"]
    for change in (module.torch.relu, module.torch.sigmoid, lambda out: 1.01 * module.torch.tanh(out)):
        module.CHANGE = change
        with pytest.raises(RunDirectoryError, match=r"computes other outputs than that of its cells .*; restore that"):
            same(tmp_path, settings)
    module.CHANGE = module.torch.tanh
    same(tmp_path, settings)


def test_another_starting_point_under_the_same_name_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    train(make_config(settings, {"output": tmp_path / "run", "max_iterations": 2, "handoff": "none"}), figure=False)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    settings["init_from"] = str(tmp_path / "run")
    same(tmp_path, settings)
    same(tmp_path, {**settings, "init_from": str(tmp_path / "copy")})
    file = tmp_path / "run" / MODEL
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(RunDirectoryError, match="init_from has other parameters than those of its cells"):
        same(tmp_path, settings)


def images(root: Path, seed: int) -> None:
    from PIL import Image

    shutil.rmtree(root, ignore_errors=True)
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(12):
                Image.fromarray(draw.integers(0, 255, (4, 4), dtype=np.uint8)).save(
                    root / split / name / f"{number}.png"
                )


def compare(root: Path, output: Path) -> object:
    given = {"dataset": "image-folder", "data_file": str(root), "model": "linear", "validation_fraction": 0.2}
    study = make_study({"methods": "sgd", "budget": "1", "seeds": "1", "tune": "none", **given})
    return run_comparison(study, output).results


def study(root: Path, output: Path) -> object:
    given = {"dataset": "image-folder", "data_file": str(root), "model": "linear", "max_iterations": 3}
    run_representativeness(Plan(make_config(given), (0.5,), 1), output)
    return (output / "results.csv").read_text()


@pytest.mark.parametrize("use", [compare, study])
def test_other_images_under_the_same_folder_are_refused(use: Callable[[Path, Path], object], tmp_path: Path) -> None:
    """A folder has no digest in the names of cells: results of the images of before were shown for these."""
    images(tmp_path / "img", 0)
    before = use(tmp_path / "img", tmp_path / "a")
    assert use(tmp_path / "img", tmp_path / "a") == before
    images(tmp_path / "img", 1)
    with pytest.raises(RunDirectoryError, match="the data are not those of its cells; restore that, or choose another"):
        use(tmp_path / "img", tmp_path / "a")
    assert use(tmp_path / "img", tmp_path / "b") != before
    images(tmp_path / "img", 0)
    assert use(tmp_path / "img", tmp_path / "a") == before
