"""`SubsetTrainer` on objects: the caller's module is left alone and may have another precision than the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt import SubsetTrainer
from subsetopt.data import Dataset, dataset_from_arrays


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
