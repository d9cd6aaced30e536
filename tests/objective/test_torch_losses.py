"""Loss modules of torch.nn: one value whatever the chunks, equal to torch's on one batch of everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from subsetopt.errors import DataError, ModelError, SettingError, UserError
from subsetopt.objective import Objective
from subsetopt.objective.evaluation import evaluate_split
from subsetopt.seeding import make_generator, seeded_globals

N, C, T = 26, 5, 3
G = make_generator(0, "torch losses")
X = torch.randn(N, 4, generator=G, dtype=torch.float64)
WEIGHT = torch.rand(C, generator=G, dtype=torch.float64) + 0.1
CLASSES = torch.randint(0, C, (N,), generator=G)
SOME_IGNORED = torch.where(torch.arange(N) % 3 == 0, -100, CLASSES)
TOKENS = torch.randint(0, C, (N, T), generator=G)
TOKENS[::2, 1] = -100
TOKENS[5] = -100
VALUES = torch.randn(N, C, generator=G, dtype=torch.float64)
BINARY = (VALUES > 0).double()
SHARES = VALUES.softmax(1)


class Tokens(nn.Module):
    """Logits at T positions, (n, C, T) or with the classes last."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.hidden, self.out, self.last = nn.Linear(4, 3), nn.Linear(3, C * T), last

    def forward(self, x: Tensor) -> Tensor:
        z = self.out(torch.tanh(self.hidden(x))).view(-1, C, T)
        return z.movedim(1, 2) if self.last else z


def network(end: nn.Module | None = None) -> nn.Module:
    with seeded_globals(0, "torch losses"):
        layers = [nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, C)]
        return nn.Sequential(*layers, *([] if end is None else [end])).double()


def tokens(last: bool) -> nn.Module:
    with seeded_globals(0, "torch losses"):
        return Tokens(last).double()


LOG = nn.LogSoftmax(1)
CASES: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
    "plain": (network(), nn.CrossEntropyLoss(), CLASSES),
    "class weights": (network(), nn.CrossEntropyLoss(WEIGHT), CLASSES),
    "all of it": (network(), nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2), SOME_IGNORED),
    "another label ignored": (network(), nn.CrossEntropyLoss(ignore_index=2), CLASSES),
    "probabilities": (network(), nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2), SHARES),
    "tokens": (tokens(False), nn.CrossEntropyLoss(WEIGHT), TOKENS),
    "tokens, classes last": (tokens(True), nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), TOKENS),
    "nll": (network(LOG), nn.NLLLoss(WEIGHT), SOME_IGNORED),
    "multi-label": (network(), nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT), BINARY),
    "soft margin": (network(), nn.MultiLabelSoftMarginLoss(WEIGHT), BINARY),
    "huber": (network(), nn.HuberLoss(delta=0.5), VALUES),
    "smooth l1": (network(), nn.SmoothL1Loss(beta=0.5), VALUES),
    "l1": (network(), nn.L1Loss(), VALUES),
    "poisson": (network(), nn.PoissonNLLLoss(), VALUES.abs().round()),
    "kl, batchmean": (network(LOG), nn.KLDivLoss(reduction="batchmean"), SHARES),
    "kl": (network(LOG), nn.KLDivLoss(), SHARES),
    "multi-margin": (network(), nn.MultiMarginLoss(weight=WEIGHT), CLASSES),
}
LINEAR = ("nll", "l1", "kl", "kl, batchmean", "multi-margin")  # in the outputs: the Hessian stands in for the GGN


def reference(name: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return w -> torch's loss of all samples, w -> outputs, outputs -> that loss."""
    model, loss, targets = CASES[name]

    def outputs(w: Tensor) -> Tensor:
        parts = torch.split(w, [p.numel() for p in model.parameters()])
        named = zip(model.named_parameters(), parts, strict=True)
        return functional_call(model, {key: part.view(p.shape) for (key, p), part in named}, (X,))

    def of_outputs(z: Tensor) -> Tensor:
        return loss(z.movedim(-1, 1) if name == "tokens, classes last" else z, targets)

    return lambda w: of_outputs(outputs(w)), outputs, of_outputs


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_torchs_whatever_the_chunk(name: str) -> None:
    model, loss, targets = CASES[name]
    full, _, _ = reference(name)
    for chunk_size in (None, 1, 7):
        objective = Objective(model, X, targets, loss, chunk_size=chunk_size)
        w = objective.initial().requires_grad_()
        (gradient,) = torch.autograd.grad(full(w), w)
        value, got = objective.value_and_gradient(w)
        torch.testing.assert_close(value, full(w).detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(got, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.filterwarnings("ignore:curvature products")
@pytest.mark.parametrize("name", [name for name in CASES if name != "multi-margin"])
def test_products_are_those_of_dense_matrices(name: str) -> None:
    model, loss, targets = CASES[name]
    full, outputs, of_outputs = reference(name)
    objective = Objective(model, X, targets, loss, chunk_size=7)
    w = objective.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(full, w)
    products = objective.linearise(w)
    torch.testing.assert_close(products.hvp(v), hessian @ v, rtol=1e-10, atol=1e-13)
    shape = outputs(w).shape
    J = torch.autograd.functional.jacobian(lambda w: outputs(w).reshape(-1), w)
    H = torch.autograd.functional.hessian(lambda z: of_outputs(z.view(shape)), outputs(w).reshape(-1))
    expected = hessian @ v if name in LINEAR else J.T @ (H @ (J @ v))
    torch.testing.assert_close(products.ggnvp(v), expected, rtol=1e-10, atol=1e-13)


def test_a_loss_without_a_second_derivative_gets_products_by_differences() -> None:
    model, loss, targets = CASES["multi-margin"]
    objective = Objective(model, X, targets, loss)
    w = objective.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    step = 1e-6
    around = [objective.value_and_gradient(w + sign * step * v)[1] for sign in (1, -1)]
    with pytest.warns(UserWarning, match="ggnvp by the Hessian"):
        got = objective.linearise(w).ggnvp(v)
    torch.testing.assert_close(got, (around[0] - around[1]) / (2 * step), rtol=1e-4, atol=1e-7)


def test_accuracy_leaves_ignored_tokens_out() -> None:
    model, loss, targets = CASES["tokens"]
    objective = Objective(model, X, targets, loss)
    w = objective.initial()
    valid = targets != -100
    with torch.no_grad():
        right = (model(X).argmax(1) == targets) & valid
        expected = float(loss(model(X), targets))
    figures = evaluate_split(objective.flat, w, X, targets, loss, chunk_size=5)
    assert figures["accuracy"] == pytest.approx(int(right.sum()) / int(valid.sum()), rel=1e-12)
    assert figures["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "targets", "kind", "message"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), CLASSES, SettingError, "reduction='mean'"),
        (nn.CTCLoss(), CLASSES, SettingError, "takes log-probabilities"),
        (nn.GaussianNLLLoss(), VALUES, SettingError, "variances"),
        (nn.TripletMarginLoss(), VALUES, SettingError, "anchors"),
        (nn.CrossEntropyLoss(WEIGHT[:3]), CLASSES, ModelError, "3 class weights, but the model has 5"),
        (nn.CrossEntropyLoss(-WEIGHT), CLASSES, SettingError, "negative"),
        (nn.CrossEntropyLoss(), CLASSES + 1, DataError, "marked|ignored by -100"),
        (nn.CrossEntropyLoss(), torch.full((N,), -100), DataError, "all ignored"),
        (nn.CrossEntropyLoss(), TOKENS, ModelError, r"need logits of shape \(n, C, 3\)"),
        (nn.NLLLoss(), SHARES, DataError, "integer classes"),
        (nn.BCEWithLogitsLoss(), BINARY[:, 0], ModelError, "unsqueeze the targets"),
        (nn.BCEWithLogitsLoss(torch.rand(N, 1)), BINARY, ModelError, "sample_weight"),
        (nn.HuberLoss(), VALUES[:, :1], ModelError, "let the model return"),
        (nn.AdaptiveLogSoftmaxWithLoss(C, 8, [2]), CLASSES, SettingError, "parameters of its own"),
    ],
)
def test_what_fits_no_mean_over_samples_is_refused_in_one_line(
    loss: nn.Module, targets: Tensor, kind: type[UserError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        Objective(network(), X, targets, loss)
    assert "\n" not in str(caught.value)
