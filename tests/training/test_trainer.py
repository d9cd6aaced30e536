"""`SubsetTrainer` on objects: the caller's module is left alone and may have another precision than the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt import SubsetTrainer, UserError
from subsetopt.data import Dataset, as_dataset, dataset_from_arrays


@pytest.fixture
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    return dataset_from_arrays(x, (x @ torch.randn(6, 3, generator=generator)).argmax(1))


def test_a_module_in_single_precision_is_trained_in_double_precision(data: Dataset) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = SubsetTrainer(module, data, subset_frac=0.5, dtype="float64", l2=1e-2, gtol=1e-9, handoff="none").fit()
    assert trainer.result["solve"]["stop_reason"] == "gradient"  # 1e-9 is beyond single precision
    assert all(value.dtype == torch.float64 for value in trainer.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("kind", ["array", "None", "number", "class", "iterator", "text in a list"])
def test_what_is_no_data_is_refused_never_replaced(kind: str, data: Dataset) -> None:
    """Before: the digits were trained on, without a word."""
    things = {
        "array": data.train.inputs.numpy(),
        "None": None,
        "number": 42,
        "class": TensorDataset,
        "iterator": iter([1]),
        "text in a list": ["a", "b", "c"],
    }
    with pytest.raises(UserError, match="dataset") as caught:
        SubsetTrainer("linear", things[kind]).fit()
    assert "\n" not in str(caught.value)
    if kind != "None":  # which means none
        with pytest.raises(UserError, match="dataset"):
            SubsetTrainer.resume("no run", dataset=things[kind])


def test_a_loader_made_a_data_set_is_trained_on(data: Dataset) -> None:
    loader = DataLoader(TensorDataset(data.train.inputs, data.train.targets), 32, shuffle=True)
    result = SubsetTrainer("linear", as_dataset(loader), max_iterations=2, handoff="none").fit().result
    assert result["dataset"]["in_shape"] == [6] and result["dataset"]["train"] == 162


@pytest.mark.parametrize("model", [nn.Linear, None, 3, dict, nn.functional.relu, [nn.Linear(6, 3)]])
def test_a_model_of_another_type_is_refused(model: Any, data: Dataset) -> None:
    with pytest.raises(UserError, match=r"^model = .*; give a"):
        SubsetTrainer(model, data)
    if model is not None:
        with pytest.raises(UserError, match=r"^model = .*; give a"):
            SubsetTrainer.resume("no run", model=model)


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_fraction": 0.3},
        {"normalize": "standard"},
        {"data_dir": "x"},
        {"data_file": "x.npz"},
        {"model_args": {"width": 3}},
    ],
)
def test_a_setting_that_an_object_makes_ineffective_is_refused(settings: dict[str, Any], data: Dataset) -> None:
    """Before: taken and dropped."""
    with pytest.raises(UserError, match=r"has no effect: the (model|data set) is given as an object"):
        SubsetTrainer(nn.Linear(6, 3), data, **settings)


@pytest.mark.parametrize("name", ["l2", "seed", "max_iterations", "subset_frac", "chunk_size", "handoff", "output"])
@pytest.mark.parametrize("value", [True, False])
def test_a_switch_is_no_number_and_no_name(name: str, value: bool) -> None:
    """Before: True was 1, so that l2=True trained with a strength of one."""
    with pytest.raises(UserError, match=f"^{name} = {value}: "):
        SubsetTrainer("linear", "digits", **{name: value})


@pytest.mark.parametrize("progress", [3, True, "bar", type("Bar", (), {})])
def test_progress_of_another_kind_is_refused_before_the_run(progress: Any) -> None:
    with pytest.raises(UserError, match=r"^progress = "):
        SubsetTrainer("linear", "digits", progress=progress)


@pytest.mark.parametrize("settings", [{"solver": "none"}, {"solver": "kfac-stream", "solver_epochs": 60.0}])
@pytest.mark.parametrize("rows", [3, 9])
def test_a_subset_that_nobody_works_on_refuses_no_run(settings, rows):
    """A tenth of nine rows has one of two classes."""
    x, y = torch.linspace(-1, 1, 2 * rows).reshape(rows, 2).sin(), torch.arange(rows) % 2
    data = dataset_from_arrays(x, y, validation_fraction=0)
    handoff = {"handoff": "none"} if settings["solver"] == "kfac-stream" else {"handoff": "sgd"}
    result = SubsetTrainer(nn.Linear(2, 2), data, **settings, **handoff).fit().result
    assert result["phases"][0]["data"] == "full" and result["overdetermination"]["samples"] == rows
    with pytest.raises(UserError, match=r"subset_frac = 0\.1: .*number of classes"):
        SubsetTrainer(nn.Linear(2, 2), data).fit()
