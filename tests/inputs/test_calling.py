"""How models take inputs that come in a dict: each against the same network called with the plain tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from subsetopt import Objective, SubsetTrainer
from subsetopt.errors import ModelError
from subsetopt.inputs import Parts, style_of
from subsetopt.inputs.calling import takes_tensor
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training.prediction.export import export_run
from subsetopt.training.prediction.predictor import load_predictor

X = torch.randn(60, 4, generator=make_generator(0, "calling"))
Y = X[:, :3].argmax(1)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded_globals(0, "calling"):
            self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, features: Any) -> Any:
        return self.net(features)


class Annotated(Plain):
    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        return self.net(batch["x"])


class Optional(Plain):
    def forward(self, batch: dict[str, Tensor] | None = None, scale: float = 1.0) -> Any:
        assert batch is not None
        return scale * self.net(batch["x"])


class SameName(Plain):
    def forward(self, x: dict[str, Tensor]) -> Any:
        return self.net(x["x"])


class BareSameName(Plain):
    def forward(self, x):  # type: ignore[no-untyped-def, override]  # as users write it
        return self.net(x["x"])


class Bare(Plain):
    def forward(self, batch, **others):  # type: ignore[no-untyped-def, override]  # as users write it
        return self.net(batch["x"])


class ByName(Plain):
    def forward(self, **batch: Tensor) -> Any:  # type: ignore[override]  # as models of Hugging Face are called
        return self.net(batch["x"])


class SecondArgument(Plain):
    def forward(self, mask: Tensor | None = None, x: Tensor | None = None) -> Any:
        assert mask is None
        assert x is not None
        return self.net(x)


KINDS = [Plain, Annotated, Optional, SameName, BareSameName, Bare, ByName, SecondArgument]


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        return {"x": X[row]}, int(Y[row])


def make(kind: str, in_shape: tuple[int, ...]) -> nn.Module:
    assert in_shape == (4,)
    found: nn.Module = globals()[kind]()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_objective_on_a_dict_of_one_tensor_is_that_on_the_tensor(kind: type[Plain]) -> None:
    plain, named = Objective(Plain(), X, Y), Objective(kind(), {"x": X}, Y)
    w, v = plain.initial() + 0.1, torch.ones(plain.size)
    for first, second in zip(plain.value_and_gradient(w), named.value_and_gradient(w), strict=True):
        torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(named.linearise(w).hvp(v), plain.linearise(w).hvp(v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(named.outputs(w, {"x": X[:7]}), plain.outputs(w, X[:7]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_dict_of_one_tensor_is_that_on_the_tensor(kind: type[Plain], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_iterations": 3, "handoff": "adam", "handoff_epochs": 1}
    expected = SubsetTrainer(Plain(), (X, Y), **settings).fit()
    runs = [
        SubsetTrainer(kind(), ({"x": X}, Y), **settings),
        SubsetTrainer(kind(), Samples(), **settings, output=tmp_path / "run"),
        SubsetTrainer(f"{__name__}:make", ({"x": X}, Y), model_args={"kind": kind.__name__}, **settings),
    ]
    for trainer in runs[:2]:
        found = trainer.fit().result
        assert found["metrics"] == expected.result["metrics"]
        assert found["cost"]["epoch_equivalents"] == expected.result["cost"]["epoch_equivalents"]
        assert torch.equal(trainer.predict({"x": X}), expected.predict(X))
    assert runs[2].fit().result["dataset"]["in_shape"] == [4]
    again = load_predictor(tmp_path / "run", model=kind())
    assert torch.equal(again.predict({"x": X}), expected.predict(X))


def test_a_model_of_a_dict_is_exported_as_one_of_the_tensor(tmp_path: Path) -> None:
    SubsetTrainer(Bare(), ({"x": X}, Y), max_iterations=3, handoff="none", output=tmp_path / "run").fit()
    assert export_run(tmp_path / "run", "torchscript", model=Bare()).difference < 1e-6


def test_tokens_and_quantities_in_a_dict_are_told_apart() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

        def forward(self, batch):  # type: ignore[no-untyped-def]  # as users write it
            return self.head(self.table(batch["x"]).mean(1))

    numbers = (X.abs() * 3).long()
    for model in (Words(), Bare(), Plain()):
        result = SubsetTrainer(model, ({"x": numbers}, Y), max_iterations=2, handoff="none").fit().result
        assert result["dataset"]["embedded"] == isinstance(model, Words)


class Either(Plain):
    """Takes the tensor by any name, or the dict, and does not make the same of them."""

    def forward(self, batch=None, **named):  # type: ignore[no-untyped-def, override]  # as users write it
        return self.net(next(iter(named.values()))) if batch is None else -self.net(batch["x"])


class EitherAnnotated(Plain):
    def forward(self, batch: Tensor) -> Any:  # type: ignore[override]  # takes more than it says
        return -self.net(batch["x"]) if isinstance(batch, dict) else self.net(batch)


class Wrong(Plain):
    def forward(self, batch):  # type: ignore[no-untyped-def, override]  # as users write it
        return self.net(batch["y"])


def test_what_may_be_meant_in_two_ways_and_what_fails_in_all_are_refused() -> None:
    with pytest.raises(ModelError, match="other outputs for inputs named x by name or as a dict; annotate"):
        Objective(Either(), {"x": X}, Y)
    assert style_of(EitherAnnotated(), Parts([X], ["x"])) == "bare"
    with pytest.raises(ModelError, match="as a dict it fails"):
        SubsetTrainer(Wrong(), ({"x": X}, Y)).fit()


def test_which_models_may_be_given_the_tensor_alone() -> None:
    part = Parts([X], ["x"])
    assert [kind for kind in KINDS if takes_tensor(kind(), part)] == [Plain]


def test_several_parts_are_taken_by_name_or_as_a_whole() -> None:
    two = Parts([X[:, :2], X[:, 2:]], ["a", "b"])

    class Whole(nn.Module):
        def forward(self, batch, scale=1.0):  # type: ignore[no-untyped-def]  # as users write it
            return scale * batch["a"] + batch["b"]

    class Pair(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor], scale: float = 1.0) -> Tensor:
            return scale * pair[0] + pair[1]

    class Apart(nn.Module):
        def forward(self, a: Tensor, b: Tensor | None = None, **others: Tensor) -> Tensor:
            return a

    class Misnamed(nn.Module):
        def forward(self, a: Tensor, mask: Tensor | None = None) -> Tensor:
            return a

    assert style_of(Whole(), two) == "whole"
    assert style_of(Pair(), Parts(two.tensors)) == "whole"
    assert style_of(Apart(), two) == "apart"
    with pytest.raises(ModelError, match=r"takes \(a, mask\), the inputs are named a, b"):
        style_of(Misnamed(), two)


def test_trying_a_model_out_leaves_it_as_it_was() -> None:
    class Counting(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))

        def forward(self, batch, **others):  # type: ignore[no-untyped-def, override]  # as users write it
            assert not self.training
            self.calls += torch.rand(()) + 1
            return super().forward(batch)

    model = Counting().train()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert style_of(model, Parts([X], ["x"])) == "whole"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.net[2].training
    assert torch.equal(torch.get_rng_state(), state)
