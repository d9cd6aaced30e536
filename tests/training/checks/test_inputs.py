"""Tokens are left alone, numbers are standardised, whatever dtype they come in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from subsetopt import ModelError, SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.objective import FlatModel
from subsetopt.training.checks.inputs import fitted_inputs

TOKENS = torch.randint(0, 50, (200, 7), generator=torch.Generator().manual_seed(0))
LABELS = (TOKENS[:, 0] > 25).long()


class Bag(nn.Module):
    """Embeds `cast(tokens)`; the first `numbers` columns are taken as numbers; the head may begin at zero."""

    def __init__(self, cast: Callable[[Tensor], Tensor], numbers: int = 0, zero: bool = False) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 4), nn.Linear(4 + numbers, 2)
        self.cast, self.numbers = cast, numbers
        if zero:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.table(self.cast(x[:, self.numbers :])).mean(1)
        return self.head(torch.cat([x[:, : self.numbers].to(embedded.dtype), embedded], dim=1))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("cast", [lambda x: x, lambda x: x.long()], ids=["plain", "casting"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_integers_that_are_embedded_reach_the_model_as_they_are(
    dtype: torch.dtype, cast: Callable[[Tensor], Tensor], zero: bool
) -> None:
    data = dataset_from_arrays(TOKENS.to(dtype), LABELS)
    fitted, embedded = fitted_inputs(FlatModel(Bag(cast, zero=zero)), data)
    assert embedded and fitted.normalization is None and data.normalization is not None


@pytest.mark.parametrize("zero", [False, True])
def test_integers_that_are_numbers_are_standardised(zero: bool) -> None:
    net = nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 2))
    if zero:
        nn.init.zeros_(net[2].weight)
    data = dataset_from_arrays(1000 * TOKENS, LABELS)
    assert fitted_inputs(FlatModel(net), data) == (data, False)
    floats = nn.Sequential(Floats(), net)
    assert fitted_inputs(FlatModel(floats), data) == (data, False), "a model that casts integers to floats"


class Floats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


@pytest.mark.parametrize("zero", [False, True])
def test_of_mixed_columns_those_that_are_embedded_are_left_alone(zero: bool) -> None:
    x = TOKENS.double()
    x[:, :2] = 1e6 * torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).round()
    model = FlatModel(Bag(lambda tokens: tokens.long(), numbers=2, zero=zero))
    fitted, embedded = fitted_inputs(model, dataset_from_arrays(x, LABELS))
    assert not embedded and fitted.normalization is not None
    assert fitted.normalization.mean[2:] == (0.0,) * 5 and fitted.normalization.std[2:] == (1.0,) * 5
    assert min(fitted.normalization.std[:2]) > 1e5


def test_tokens_are_learnt_and_predicted() -> None:
    trainer = SubsetTrainer(Bag(lambda x: x), dataset_from_arrays(TOKENS, LABELS), subset_frac=0.9).fit()
    assert trainer.result["dataset"]["embedded"] and trainer.result["normalization"] is None
    assert (
        trainer.evaluate(TOKENS, LABELS)["accuracy"] == float((trainer.predict(TOKENS) == LABELS).double().mean()) > 0.6
    )


def test_tokens_as_floats_and_tokens_out_of_range_are_refused_with_their_cause() -> None:
    with pytest.raises(ModelError, match=r"float32; give them as int64"):
        fitted_inputs(FlatModel(Bag(lambda x: x)), dataset_from_arrays(TOKENS.float(), LABELS))
    with pytest.raises(ModelError, match=r"integers from 0 to 50, which it cannot embed"):
        beyond = TOKENS.clone()
        beyond[150, 3] = 50
        fitted_inputs(FlatModel(Bag(lambda x: x)), dataset_from_arrays(beyond, LABELS))
