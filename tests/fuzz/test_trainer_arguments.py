"""Arguments of every kind at the Python entries: taken as what they are, or one line; nothing is replaced in silence.

300 examples of each in CI, 5000 with `-m slow`. Nothing is trained: a configuration, a phase list and data are made.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt import Objective, SubsetTrainer, UserError, minimize, overdetermination_ratio
from subsetopt.compare.config import StudyConfig, make_study
from subsetopt.data import Dataset, as_dataset, dataset_from_arrays
from subsetopt.training.settings.run import RunConfig

X, Y = torch.zeros(20, 4), torch.arange(20) % 2
DATA = dataset_from_arrays(X, Y)
MODEL = nn.Linear(4, 2)
ROWS = TensorDataset(X, Y)


class Hostile:
    """An object that fails when it is looked at too closely."""

    def __repr__(self) -> str:
        return "hostile\nobject"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.sampled_from(["0.1", "auto", "none", "lbfgs", "sgd", "digits"]),
)
THINGS = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=2),
    st.sampled_from(
        [
            X,
            Y,
            X.numpy(),
            np.int64(3),
            np.float32(0.5),
            np.array(0.1),
            torch.tensor(2),
            (X, Y),
            [X, Y],
            ROWS,
            DataLoader(ROWS, 4),
            TensorDataset,
            nn.Linear,
            MODEL,
            DATA,
            Dataset,
            Hostile(),
            Hostile,
            len,
            lambda w: w,
            object(),
            3 + 1j,
            range(3),
            {1},
            Ellipsis,
            torch.float64,
            torch.device("cpu"),
        ]
    ),
)
MODELS_TAKEN, DATA_TAKEN = (str, nn.Module), (str, Dataset, TensorDataset, DataLoader, tuple, list)


def _refused_or(call: Any) -> Any:
    """Return what `call` returns, or None after a refusal, which is one line."""
    try:
        return call()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return None


def check_trainer(model: object, dataset: object, name: str, value: object) -> None:
    trainer = _refused_or(lambda: SubsetTrainer(model, dataset, **{name: value}))  # type: ignore[arg-type]  # any kind
    if trainer is None:
        return
    assert isinstance(model, MODELS_TAKEN) and isinstance(dataset, DATA_TAKEN)
    assert trainer._model is (None if isinstance(model, str) else model)
    assert trainer._dataset is (None if isinstance(dataset, str) else dataset)
    kept = getattr(trainer.config, name)
    if isinstance(value, bool):
        assert kept is value
    elif isinstance(value, int | float) and not isinstance(kept, bool):
        assert kept == value
    elif value is None:
        assert kept is None


def check_entries(value: object, other: object) -> None:
    made = _refused_or(lambda: as_dataset(value))
    assert made is None or len(made.train) + len(made.validation or ()) == 20
    objective = _refused_or(lambda: Objective(value, X, Y))  # type: ignore[arg-type]  # any kind
    assert objective is None or value is MODEL
    objective = _refused_or(lambda: Objective(MODEL, X, Y, l2=value))  # type: ignore[arg-type]  # any kind
    assert objective is None or (objective.l2 == value and not isinstance(value, bool))
    count = _refused_or(lambda: overdetermination_ratio(MODEL, value, 2))  # type: ignore[arg-type]  # any kind
    assert count is None or (count.samples == value and not isinstance(value, bool))
    found = _refused_or(lambda: minimize(lambda w: (w**2).sum(), torch.ones(2), gtol=value))  # type: ignore[arg-type]
    assert found is None or (isinstance(value, numbers.Real) and not isinstance(value, bool))
    _refused_or(lambda: minimize(lambda w: (w**2).sum(), torch.ones(2), method=other, max_iterations=2))  # type: ignore[arg-type]
    _refused_or(lambda: make_study({"methods": "sgd", "budget": value}))


SETTINGS = st.sampled_from(sorted(RunConfig.model_fields.keys() - {"model", "dataset"}))
PLAUSIBLE = st.one_of(st.sampled_from(["linear", MODEL]), THINGS)
PLAUSIBLE_DATA = st.one_of(st.sampled_from(["digits", DATA]), THINGS)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(PLAUSIBLE, PLAUSIBLE_DATA, SETTINGS, THINGS)
def test_a_trainer_has_what_it_was_given_or_refuses(model: object, dataset: object, name: str, value: object) -> None:
    check_trainer(model, dataset, name, value)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(THINGS, THINGS)
def test_the_other_entries_take_what_they_are_given_or_refuse(value: object, other: object) -> None:
    check_entries(value, other)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(StudyConfig.model_fields)), THINGS)
def test_a_study_refuses_in_one_line(name: str, value: object) -> None:
    _refused_or(lambda: make_study({name: value}))


@pytest.mark.slow  # 10000 examples
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLAUSIBLE, PLAUSIBLE_DATA, SETTINGS, THINGS)
def test_trainers_at_length(model: object, dataset: object, name: str, value: object) -> None:
    check_trainer(model, dataset, name, value)


@pytest.mark.slow  # 10000 examples
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(THINGS, THINGS)
def test_the_other_entries_at_length(value: object, other: object) -> None:
    check_entries(value, other)
