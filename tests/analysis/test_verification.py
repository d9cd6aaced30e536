"""Verdicts on known points of known functions, and on runs whose Hessian is written out with torch.func."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.analysis.verification import certify, verify_run
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.documents.analysis import VerificationDocument
from subsetopt.errors import RunDirectoryError, SettingError
from subsetopt.objective import FunctionObjective
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training import make_config, train

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[float], str]] = {
    "bowl": (lambda x: x[0] ** 2 + 3 * x[1] ** 2, [0.0, 0.0], "minimum"),
    "saddle": (lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.0], "saddle"),
    "top": (lambda x: -x.square().sum(), [0.0, 0.0], "saddle"),
    "slope of a saddle": (lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.1], "not stationary"),
    "slope of a bowl": (lambda x: x.square().sum(), [1e-4, 0.0], "not stationary"),
    "flat": (lambda x: 0 * x.sum() + 5, [0.3, 0.2], "undecided"),
    "fourth power": (lambda x: (x**4).sum(), [0.0, 0.0], "undecided"),
    "valley": (lambda x: (x[0] + x[1]) ** 2, [1.0, -1.0], "undecided"),
    "narrow bowl": (lambda x: x[0] ** 2 + 1e-8 * x[1] ** 2, [0.0, 0.0], "minimum"),
    "faint saddle": (lambda x: x[0] ** 2 - 1e-8 * x[1] ** 2, [0.0, 0.0], "saddle"),
    "one parameter": (lambda x: (x[0] - 2) ** 2, [2.0], "minimum"),
}


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dense_limit", [0, 10], ids=["lanczos", "written out"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_verdict_whatever_the_scale_of_the_loss(name: str, dense_limit: int, factor: float) -> None:
    function, point, verdict = FUNCTIONS[name]
    w = torch.tensor(point, dtype=torch.float64)
    objective = FunctionObjective(lambda x: factor * function(x), torch.ones_like(w))
    assert certify(objective, w, dense_limit=dense_limit).verdict == verdict


def test_the_distance_to_the_minimum_of_a_quadratic_is_bounded() -> None:
    target = torch.tensor([1.0, -2.0], dtype=torch.float64)
    objective = FunctionObjective(lambda x: (x - target) @ (x - target) * 0.5, torch.zeros(2, dtype=torch.float64))
    found = certify(objective, target + torch.tensor([3e-6, -4e-6], dtype=torch.float64))
    assert found.verdict == "minimum" and found.distance == pytest.approx(5e-6)
    assert found.loss_scale == pytest.approx(2.5), "f at the start, larger than max|g| = 2 there"


def test_gtol_must_be_positive() -> None:
    with pytest.raises(SettingError, match="gtol = 0"):
        certify(FunctionObjective(lambda x: x.sum() ** 2, torch.ones(2)), torch.ones(2), gtol=0)


def small_dataset(rows: int = 240, seed: int = 0) -> Dataset:
    generator = make_generator(seed, "verify")
    x = torch.randn(rows, 4, generator=generator)
    y = (x @ torch.randn(4, 3, generator=generator) + torch.randn(rows, 3, generator=generator)).argmax(1)
    return dataset_from_arrays(x, y)


def small_model() -> torch.nn.Module:
    with seeded_globals(0, "init"):
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))


OBJECTS: dict[str, Any] = {"model": small_model().double(), "dataset": small_dataset()}
SETTINGS = {"subset_frac": 0.5, "l2": 0.01, "gtol": 1e-6, "dtype": "float64"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subset solve to the minimum and a hand-off that has no time to reach that of the full set."""
    directory = tmp_path_factory.mktemp("verify") / "run"
    train(make_config(SETTINGS, {"output": directory, "handoff": "full", "handoff_epochs": 4.0}), **OBJECTS)
    return directory


def dense_hessian(run: Path, phase: int, l2: float) -> np.ndarray[Any, Any]:
    """The eigenvalues of the subset's Hessian at the parameters of a phase, from nothing but the files of the run."""
    from subsetopt.training.preparation import prepare
    from subsetopt.training.splits import SplitName

    config = make_config(SETTINGS)
    data = prepare(config, **OBJECTS).data
    x, y = data.trained(SplitName.SUBSET)
    names = {name: p.shape for name, p in OBJECTS["model"].named_parameters()}

    def loss(w: Tensor) -> Tensor:
        parts = torch.split(w, [shape.numel() for shape in names.values()])
        parameters = {name: part.view(shape) for (name, shape), part in zip(names.items(), parts, strict=True)}
        outputs = torch.func.functional_call(OBJECTS["model"], parameters, (data.preprocess(x),))
        return F.cross_entropy(outputs, y) + l2 / 2 * w @ w

    w = safetensors.torch.load_file(run / "checkpoint.safetensors")[f"done/{phase}/w"]
    return np.linalg.eigvalsh(torch.func.hessian(loss)(w).numpy())


def test_a_subset_minimum_is_verified_at_the_parameters_of_the_solve_not_of_the_hand_off(run: Path) -> None:
    document = verify_run(run, **OBJECTS).content()
    assert VerificationDocument.read(json.loads(json.dumps(document))).content() == document
    reference = dense_hessian(run, 0, 0.01)
    assert document["verdict"] == "minimum"
    assert document["phase"] == {
        "index": 0,
        "role": "solve",
        "method": "lbfgs",
        "data": "subset",
        "stop_reason": "gradient",
    }
    hessian = document["hessian"]
    assert hessian["smallest"]["value"] == pytest.approx(reference[0], rel=1e-8)
    assert hessian["largest"]["value"] == pytest.approx(reference[-1], rel=1e-8)
    assert hessian["smallest_without_l2"] == pytest.approx(reference[0] - 0.01, rel=1e-8)
    assert hessian["condition"]["value"] == pytest.approx(reference[-1] / reference[0], rel=1e-8)
    data = np.maximum(reference - 0.01, 0)
    assert document["effective_dimension"]["value"] == pytest.approx((data / (data + 0.01)).sum(), rel=1e-8)
    result = json.loads((run / "result.json").read_text())
    assert document["loss"] == pytest.approx(result["solve"]["loss"], rel=1e-12)
    assert document["gradient"]["max"] == pytest.approx(result["solve"]["gradient_norm"], rel=1e-6)
    assert document["ratio"] == result["overdetermination"]["ratio"]
    assert document["effective_ratio"] > document["ratio"]
    assert document["notes"] == []


def test_on_full_verifies_the_hand_off(run: Path) -> None:
    document = verify_run(run, on="full", **OBJECTS).content()
    result = json.loads((run / "result.json").read_text())
    assert document["phase"]["role"] == "handoff" and document["samples"] == 216
    assert document["gradient"]["max"] == pytest.approx(result["handoff"]["gradient_norm"], rel=1e-6)
    assert document["verdict"] == ("minimum" if result["handoff"]["converged"] else "not stationary")


def test_products_are_charged_to_a_ledger_and_the_run_is_left_alone(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    document = verify_run(run, **OBJECTS).content()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    purposes, parameters = document["cost"]["by_purpose"], document["parameters"]
    assert document["hessian"]["products"] == parameters == 35
    assert purposes["product"]["samples"] == (parameters + 1) * 108, "and once to record the graphs"
    assert purposes["evaluation"]["samples"] == 108, "the run has told its scale"
    assert document["cost"]["epoch_equivalents"] == pytest.approx(
        sum(purpose["epoch_equivalents"] for purpose in purposes.values())
    )


def test_gtol_and_damping_of_the_caller_rule(run: Path) -> None:
    document = verify_run(run, gtol=1e-12, damping=1.0, **OBJECTS).content()
    assert document["verdict"] == "not stationary" and document["gradient"]["gtol"] == 1e-12
    assert document["effective_dimension"]["damping"] == 1.0
    assert (
        document["effective_dimension"]["value"] < verify_run(run, **OBJECTS).content()["effective_dimension"]["value"]
    )


def test_a_float32_run_is_verified_in_float64(tmp_path: Path) -> None:
    settings = {**SETTINGS, "dtype": "float32", "handoff": "none", "gtol": 1e-5, "output": tmp_path / "run"}
    objects = {**OBJECTS, "model": small_model()}
    train(make_config(settings), **objects)
    document = verify_run(tmp_path / "run", **objects).content()
    assert next(objects["model"].parameters()).dtype == torch.float32, "the caller's model is left alone"
    assert (document["verdict"], document["dtype"]) == ("minimum", "float64")
    assert document["notes"] == ["the run computed in float32"]
    with pytest.raises(SettingError, match="on = 'full': no finished phase trained on it; use on='subset'"):
        verify_run(tmp_path / "run", on="full", **objects)


def test_without_l2_there_is_no_effective_dimension_until_damping_is_given(tmp_path: Path) -> None:
    settings = {**SETTINGS, "l2": 0.0, "handoff": "none", "max_iterations": 5, "output": tmp_path / "run"}
    train(make_config(settings), **OBJECTS)
    document = verify_run(tmp_path / "run", **OBJECTS).content()
    assert document["effective_dimension"] is None and document["verdict"] == "not stationary"
    assert verify_run(tmp_path / "run", damping=0.01, **OBJECTS).content()["effective_dimension"]["value"] > 0


def test_a_first_order_phase_is_measured_against_the_full_batch_loss(tmp_path: Path) -> None:
    settings = {**SETTINGS, "solver": "none", "handoff": "sgd", "handoff_epochs": 1.0, "output": tmp_path / "run"}
    train(make_config(settings), **OBJECTS)
    document = verify_run(tmp_path / "run", **OBJECTS).content()
    assert document["phase"]["method"] == "sgd" and document["verdict"] == "not stationary"
    assert document["notes"] == ["sgd saw mini-batches; verified is the full-batch loss with l2 = 0.01"]


def test_batch_normalisation_keeps_the_chunks_of_the_run(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    objects = {**OBJECTS, "model": model}
    settings = {**SETTINGS, "dtype": "float32", "handoff": "none", "max_iterations": 4, "stop_at": "noise"}
    result = train(make_config(settings, {"output": tmp_path / "run"}), **objects).result
    document = verify_run(tmp_path / "run", **objects).content()
    assert document["loss"] == pytest.approx(result["solve"]["loss"], rel=1e-5)
    assert "other data" not in "".join(document["notes"])


@pytest.mark.parametrize("other", [{"rows": 200}, {"seed": 1}])
def test_other_data_are_refused(run: Path, other: dict[str, int]) -> None:
    with pytest.raises(RunDirectoryError, match="does not fit: the data are not those of the run"):
        verify_run(run, model=OBJECTS["model"], dataset=small_dataset(**other))


def test_a_run_without_a_finished_phase_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((run / "config.toml").read_bytes())
    with pytest.raises(RunDirectoryError, match=r"no phase is finished; SubsetTrainer\.resume.* model=.*, dataset="):
        verify_run(tmp_path, **OBJECTS)
    with pytest.raises(RunDirectoryError, match="its model and dataset were Python objects"):
        verify_run(run)
