"""`loss(model, batch)`: outputs that are objects, forces in the loss, means over tokens; against autograd on all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt import minimize, model_loss
from subsetopt.errors import DataError, ModelError, SettingError, UserError
from subsetopt.objective import Objective
from subsetopt.objective.losses import CallableLoss, make_loss
from subsetopt.objective.model_loss import ModelLoss
from subsetopt.seeding import make_generator, seeded_globals

N, C, T = 21, 4, 5
G = make_generator(0, "model loss")
X = torch.randn(N, 3, generator=G, dtype=torch.float64)
FORCES = torch.randn(N, 3, generator=G, dtype=torch.float64)
ENERGIES = torch.randn(N, generator=G, dtype=torch.float64)
IDS = torch.randint(0, C, (N, T), generator=G)
LABELS = torch.where(torch.rand(N, T, generator=G) < 0.4, -100, IDS)


def network(outputs: int = 3) -> nn.Module:
    with seeded_globals(0, "model loss"):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


OUTSIDE = network()


class Language(nn.Module):
    """Returns an object with a loss, the mean over labels that count, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(C, 3), nn.Linear(3, C)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.out(torch.tanh(self.embed(input_ids)))
        loss = None if labels is None else F.cross_entropy(logits.movedim(2, 1), labels)
        return SimpleNamespace(logits=logits, loss=loss)


def language() -> nn.Module:
    with seeded_globals(0, "language"):
        return Language().double()


def reconstruction(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch).square().mean(1)


def mean_reconstruction(model: nn.Module, batch: Tensor) -> Tensor:
    return reconstruction(model, batch).mean()


def energy_and_forces(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    positions, energies, forces = batch
    positions = positions.requires_grad_()
    energy = model(positions)[:, 0]
    (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    return (energy - energies).square() + (slope + forces).square().sum(1)


def tokens(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    return model(**batch)


def counted(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"] != -100).sum(1)


CASES: dict[str, tuple[nn.Module, Any, Any, Any]] = {
    "autoencoder": (network(), X, reconstruction, lambda m: reconstruction(m, X).mean()),
    "mean": (network(), X, mean_reconstruction, lambda m: reconstruction(m, X).mean()),
    "forces": (
        network(1), (X, ENERGIES, FORCES), model_loss(energy_and_forces),
        lambda m: energy_and_forces(m, (X.clone(), ENERGIES, FORCES)).mean(),
    ),
    "tokens": (
        language(), {"input_ids": IDS, "labels": LABELS}, model_loss(tokens, count=counted),
        lambda m: m(IDS, LABELS).loss,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_hessian_are_those_of_all_samples_at_once(name: str) -> None:
    model, inputs, loss, full = CASES[name]
    expected = full(model)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(expected, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    v = torch.randn(len(flat), generator=make_generator(1, "v"), dtype=torch.float64)
    product = torch.cat([g.reshape(-1) for g in torch.autograd.grad(flat @ v, parameters, materialize_grads=True)])
    for chunk_size in (None, 1, 8):
        objective = Objective(model, inputs, loss=loss, chunk_size=chunk_size)
        w = objective.initial()
        value, gradient = objective.value_and_gradient(w)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(objective.value(w), expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, flat.detach(), rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(objective.linearise(w).hvp(v), product, rtol=1e-10, atol=1e-12)


def test_gauss_newton_is_the_hessian_and_says_so() -> None:
    model, inputs, loss, _ = CASES["autoencoder"]
    products = Objective(model, inputs, loss=loss).linearise(w := Objective(model, inputs, loss=loss).initial())
    v = torch.ones_like(w)
    with pytest.warns(UserWarning, match=r"ggnvp by the Hessian \(a loss\(model, batch\) shows no outputs"):
        got = products.ggnvp(v)
    assert torch.equal(got, products.hvp(v))


def test_targets_come_beside_the_inputs() -> None:
    y = torch.arange(N, dtype=torch.uint8) % 3

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, labels = batch
        return F.cross_entropy(model(x), labels, reduction="none")

    named = Objective(network(), X, y.long(), preprocess=lambda x: 2 * x)
    own = Objective(network(), X, y, loss, chunk_size=8, preprocess=lambda x: 2 * x)
    w = named.initial()
    for a, b in zip(named.value_and_gradient(w), own.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    result = minimize(own, max_iterations=5)
    assert result.loss < float(own.value(w))


def test_the_arguments_tell_what_a_loss_is_called_with() -> None:
    def annotated(net: nn.Module, rows: Tensor) -> Tensor:
        return net(rows).sum(1)

    for function in (annotated, lambda model, batch: 0, lambda net, x: 0, model_loss(lambda a, b: a(b))):
        assert isinstance(make_loss(function), ModelLoss)
    for function in (lambda z, y: 0, lambda outputs, targets: 0, lambda input, target: 0, F.mse_loss, lambda *a: 0):
        assert isinstance(make_loss(function), CallableLoss)
    for function in (lambda model, targets: 0, lambda outputs, batch: 0):
        with pytest.raises(SettingError, match=r"may be loss\(outputs, targets\) or loss\(model, batch\)"):
            make_loss(function)


def test_weights_are_those_of_repeated_samples() -> None:
    repeats = torch.arange(N) % 3
    weighted = Objective(network(), X, loss=reconstruction, sample_weight=repeats, chunk_size=8)
    repeated = Objective(network(), X[torch.arange(N).repeat_interleave(repeats)], loss=reconstruction)
    w = weighted.initial()
    for a, b in zip(weighted.value_and_gradient(w), repeated.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"loss": "mse"}, DataError, "targets: is None"),
        ({"loss": lambda z, y: z(y)}, DataError, "targets: is None"),
        ({"loss": lambda z, y: z(y).sum(1), "targets": X}, ModelError, r"given as model_loss\(function\)"),
        ({"loss": lambda model, batch: model(batch)}, ModelError, r"return \(21,\)|\(16,\) losses or their mean"),
        ({"loss": lambda model, batch: 3.0}, ModelError, "it returns a float"),
        ({"loss": lambda model, batch: reconstruction(model, batch).sum()}, ModelError, "not the mean over samples"),
        ({"loss": lambda model, batch: reconstruction(model, batch).mean().sqrt()}, ModelError, "not the mean"),
        ({"loss": lambda model, batch: model(batch[0])}, ModelError, "losses or their mean|fails"),
        ({"loss": lambda model, batch: batch.mean(1)}, ModelError, "do not depend on its parameters"),
        ({"loss": lambda model, batch: OUTSIDE(batch).sum(1)}, ModelError, "call the model that it is given"),
        ({"loss": model_loss(reconstruction, count=lambda batch: torch.ones(2))}, SettingError, "one number for each"),
        ({"loss": model_loss(reconstruction, count=lambda batch: -torch.ones(len(batch)))}, DataError, "count|nothing"),
        (
            {"loss": lambda model, batch: reconstruction(model, batch).mean(), "sample_weight": torch.arange(N)},
            ModelError,
            "sample_weight needs one loss per sample",
        ),
    ],
)
def test_the_users_mistakes_are_refused_in_one_line(
    changes: dict[str, Any], kind: type[UserError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        Objective(network(), X, **changes)
    assert "\n" not in str(caught.value)


def test_a_mean_over_tokens_needs_their_count() -> None:
    model, inputs, _, _ = CASES["tokens"]
    with pytest.raises(ModelError, match="count=") as caught:
        Objective(model, inputs, loss=model_loss(tokens))
    assert "\n" not in str(caught.value)
