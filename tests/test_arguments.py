"""Arguments of the wrong kind at every Python entry: one line that names the argument, and nothing taken for another.

Each of these was a traceback from inside, or passed without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt import Objective, UserError, load_dataset, minimize, overdetermination_ratio
from subsetopt.compare.config import make_study
from subsetopt.compare.run import run_comparison
from subsetopt.samplers import make_sampler

X, Y = torch.zeros(20, 4), torch.arange(20) % 2
MODEL = nn.Linear(4, 2)


def square(w: Tensor) -> Tensor:
    return (w**2).sum()


def sampler(*given: Any, **settings: Any) -> Callable[[], object]:
    return lambda: make_sampler(*given, **settings)


def objective(*given: Any, **settings: Any) -> Callable[[], object]:
    return lambda: Objective(*given, **settings)


def solve(*given: Any, **settings: Any) -> Callable[[], object]:
    return lambda: minimize(*given, **settings)


WRONG: list[tuple[str, Callable[[], object]]] = [
    ("sampler", sampler(None, 50, 8)),
    ("sampler", sampler(3, 50, 8)),
    ("n_samples", sampler("full", "50", 8)),
    ("n_samples", sampler("full", X, 8)),
    ("n_samples", sampler("full", 50.0, 8)),
    ("batch_size", sampler("full", 50, True)),
    ("seed", sampler("full", 50, 8, seed=None)),
    ("seed", sampler("full", 50, 8, seed="a")),
    ("seed", sampler("full", 50, 8, seed=1.5)),
    ("seed", sampler("full", 50, 8, seed=True)),
    ("device", sampler("full", 50, 8, device="foo")),
    ("device", sampler("full", 50, 8, device=None)),
    ("drop_last", sampler("full", 50, 8, drop_last=1)),
    ("fraction", sampler("rs2", 50, 8, fraction="0.1")),
    ("fraction", sampler("rs2", 50, 8, fraction=None)),
    ("correction", sampler("p-sgd", 50, 8, correction=["none"])),
    ("model", objective(nn.Linear, X, Y)),
    ("model", objective("mlp", X, Y)),
    ("inputs", objective(MODEL, X.numpy(), Y)),
    ("inputs", objective(MODEL, None, Y)),
    ("targets", objective(MODEL, X, Y.tolist())),
    ("loss", objective(MODEL, X, Y, nn.CrossEntropyLoss)),
    ("loss", objective(MODEL, X, Y, None)),
    ("l2", objective(MODEL, X, Y, l2=True)),
    ("l2", objective(MODEL, X, Y, l2="1")),
    ("indices", objective(MODEL, X, Y, indices="abc")),
    ("dtype", objective(MODEL, X, Y, dtype="float64")),
    ("device", objective(MODEL, X, Y, device="foo")),
    ("preprocess", objective(MODEL, X, Y, preprocess=3)),
    ("track_noise", objective(MODEL, X, Y, track_noise="no")),
    ("allow_tf32", objective(MODEL, X, Y, allow_tf32=1)),
    ("fun", solve(None, X)),
    ("fun", solve(3, X)),
    ("fun", solve(Objective, X)),
    ("fun", solve(MODEL, X)),
    ("solver", solve(square, X, None)),
    ("callback", solve(square, X, callback=3)),
    ("gtol", solve(square, X, gtol=True)),
    ("x0", solve(Objective(MODEL, X, Y), 3)),
    ("x0", solve(square, [1.0])),
    ("model", lambda: overdetermination_ratio(nn.Linear, 10, 2)),  # type: ignore[arg-type]  # the mistake
    ("samples", lambda: overdetermination_ratio(MODEL, X, 2)),  # type: ignore[arg-type]  # the mistake
    ("outputs", lambda: overdetermination_ratio(MODEL, 10, True)),
    ("dataset", lambda: load_dataset(None)),  # type: ignore[arg-type]  # the mistake
    ("budget", lambda: make_study({"budget": [1.0, True]})),
    ("seeds", lambda: make_study({"seeds": [True]})),
    ("max_extensions", lambda: make_study({"max_extensions": True})),
    ("subset_fraq", lambda: make_study({"subset_fraq": 0.1})),
]


@pytest.mark.parametrize(("name", "call"), WRONG, ids=[f"{i} {name}" for i, (name, _) in enumerate(WRONG)])
def test_one_line_names_the_argument(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    """Reference: the same with Python's own."""
    ours = make_sampler("rs2", 50, 8, seed=4, fraction=0.5)
    theirs = make_sampler("rs2", np.int64(50), np.int32(8), seed=np.int64(4), fraction=np.float64(0.5))  # type: ignore[arg-type]  # what users have
    assert torch.equal(ours.propose().indices, theirs.propose().indices)
    assert type(theirs.settings.fraction) is float and type(theirs.state_dict()["n_samples"]) is int
    assert Objective(MODEL, X, Y, l2=np.float32(0.5)).l2 == 0.5


def test_a_study_directory_may_be_a_string(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="holds no study"):
        run_comparison(make_study({"methods": "sgd", "dataset": "digits", "model": "linear"}), str(tmp_path / "file"))
