"""Exported models do what `predict` does, standardisation included. Reference: the predictor on other rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.errors import UserError
from subsetopt.training.prediction.export import FACTS, export_run
from subsetopt.training.prediction.predictor import load_predictor

RNG = np.random.default_rng(0)
X = 1e3 * RNG.normal(size=(60, 3)) + 5e3
QUICK: dict[str, Any] = {"subset_frac": 1.0, "max_iterations": 3, "handoff": "none", "validation_fraction": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    np.savez(folder / "r.npz", x_train=X, y_train=np.stack([X[:, 0] * 10, X[:, 1] - X[:, 2]], 1))
    np.savez(folder / "c.npz", x_train=X, y_train=np.where(X[:, 0] > 5e3, "up", "down"))
    for name in ("r", "c"):
        SubsetTrainer("mlp", "npz", data_file=folder / f"{name}.npz", output=folder / name, **QUICK).fit()
    return folder


def _run_file(path: Path, rows: Tensor) -> tuple[np.ndarray, dict[str, Any]]:
    files = {FACTS: ""}
    if path.suffix == ".pt2":
        found = torch.export.load(path, extra_files=files).module()(rows)
    else:
        found = torch.jit.load(str(path), _extra_files=files)(rows)
    return found.detach().numpy(), json.loads(files[FACTS])


@pytest.mark.parametrize("format", ["torch", "torchscript"])
@pytest.mark.parametrize("name", ["r", "c"])
def test_a_file_takes_raw_rows_in_any_number_and_agrees_with_predict(
    folder: Path, tmp_path: Path, name: str, format: Any
) -> None:
    done = export_run(folder / name, format, tmp_path / {"torch": "m.pt2", "torchscript": "m.pt"}[format])
    predictor = load_predictor(folder / name)
    rows = torch.from_numpy(1e3 * RNG.normal(size=(37, 3)) + 5e3).float()
    expected = predictor.predict(rows) if name == "r" else predictor.predict_proba(rows)
    found, facts = _run_file(done.path, rows)
    assert float(np.abs(found - expected.numpy()).max()) <= 1e-6 * max(1.0, float(expected.abs().max()))
    assert facts == done.facts
    assert facts["class_names"] == ([] if name == "r" else ["down", "up"])
    assert (facts["in_shape"], facts["in_dtype"]) == ([3], "float32")


class OtherWhenTraced(nn.Module):
    """A model that is another function while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.linear(x) * (2.0 if torch.jit.is_tracing() else 1.0)
        return outputs


def test_a_file_that_differs_from_predict_is_not_written(tmp_path: Path) -> None:
    data = dataset_from_arrays(X, X[:, 0])
    trainer = SubsetTrainer(OtherWhenTraced(), data, output=tmp_path / "run", subset_frac=1.0, handoff="none")
    trainer.fit()
    with pytest.raises(UserError, match="differs from predict by") as caught:
        export_run(tmp_path / "run", "torchscript", model=OtherWhenTraced())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.pt").exists()
    with pytest.raises(UserError, match="was a Python object"):
        export_run(tmp_path / "run", "torchscript")


def test_a_missing_package_and_a_file_in_the_way_are_said_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(UserError, match="needs onnx and onnxscript; pip install"):
        export_run(folder / "r", "onnx")
    (tmp_path / "m.pt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_run(folder / "r", "torchscript", tmp_path / "m.pt")
    with pytest.raises(UserError, match="unknown name"):
        export_run(folder / "r", "tensorrt")  # type: ignore[arg-type]  # the mistake under test


def test_onnx_agrees_with_predict(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is an extra")
    pytest.importorskip("onnxscript", reason="onnxscript is an extra")
    from onnx.reference import ReferenceEvaluator

    done = export_run(folder / "c", "onnx", tmp_path / "m.onnx")
    rows = (1e3 * RNG.normal(size=(5, 3)) + 5e3).astype(np.float32)
    found = ReferenceEvaluator(onnx.load(done.path)).run(None, {"inputs": rows})[0]
    np.testing.assert_allclose(found, load_predictor(folder / "c").predict_proba(rows), atol=1e-6)
