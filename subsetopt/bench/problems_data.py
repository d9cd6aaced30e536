"""Regressions and small networks on the tables that scikit-learn carries, as functions of a flat float64 tensor."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from subsetopt.bench.problems import Problem
from subsetopt.errors import UserError

MAX_CALLS = 3000
Head = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> mean loss."""

DATA_DEVELOPMENT = ("softmax-digits-1e-3", "logistic-cancer-1e-4", "mlp-tanh-51k", "mlp-gelu-wine")
DATA_HELD_OUT = (
    "softmax-digits-1e-5",
    "softmax-wine-1e-4",
    "softmax-iris-1e-6",
    "logistic-cancer-raw",
    "huber-diabetes",
    "poisson-diabetes",
    "mlp-tanh-digits",
    "mlp-gelu-digits",
    "mlp-softplus-diabetes",
    "mlp-tanh-cancer",
    "mlp-silu-iris",
    "autoencoder-digits",
    "cnn-digits",
    "lstm-digits",
    "deep-tanh-wine",
)


def data_problem(name: str) -> Problem:
    """Return the problem `name` from its seeded start. Raises `UserError` where scikit-learn is missing."""
    kind, _, rest = name.partition("-")
    if kind in ("softmax", "logistic"):
        table, _, l2 = rest.partition("-")
        inputs, labels = table_of(table, standardise=l2 != "raw")
        model: nn.Module = nn.Linear(inputs.shape[1], int(labels.max()) + 1)
        decay = 1e-4 if l2 == "raw" else float(l2)
        return _problem(name, model, inputs, labels.long(), nn.functional.cross_entropy, decay)
    if kind in ("huber", "poisson"):
        inputs, targets = table_of(rest)
        loss: Head = _pseudo_huber if kind == "huber" else _poisson
        scaled = targets / targets.std() if kind == "huber" else torch.round(targets / 10)
        return _problem(name, nn.Linear(inputs.shape[1], 1), inputs, scaled, loss, 1e-6)
    return _network(name)


def _network(name: str) -> Problem:
    dense = {
        "mlp-tanh-51k": ("digits", (64, 670, 10), nn.Tanh, 1e-4, 500),
        "mlp-gelu-wine": ("wine", (13, 12, 3), nn.GELU, 1e-3, None),
        "mlp-tanh-digits": ("digits", (64, 20, 10), nn.Tanh, 1e-3, 600),
        "mlp-gelu-digits": ("digits", (64, 16, 16, 10), nn.GELU, 1e-3, 600),
        "mlp-softplus-diabetes": ("diabetes", (10, 10, 1), nn.Softplus, 1e-3, None),
        "mlp-tanh-cancer": ("cancer", (30, 8, 2), nn.Tanh, 1e-3, None),
        "mlp-silu-iris": ("iris", (4, 8, 8, 3), nn.SiLU, 1e-4, None),
        "deep-tanh-wine": ("wine", (13, 8, 8, 8, 8, 3), nn.Tanh, 1e-3, None),
    }
    if name in dense:
        table, widths, activation, l2, samples = dense[name]
        inputs, targets = table_of(table)
        inputs, targets = inputs[:samples], targets[:samples]
        if table == "diabetes":
            return _problem(name, _dense(widths, activation), inputs, targets / targets.std(), _square, l2)
        return _problem(name, _dense(widths, activation), inputs, targets.long(), nn.functional.cross_entropy, l2)
    inputs, labels = table_of("digits")
    inputs, labels = inputs[:400], labels[:400].long()
    if name == "autoencoder-digits":
        return _problem(name, _dense((64, 12, 64), nn.Tanh), inputs, inputs, nn.functional.mse_loss, 1e-4)
    if name == "cnn-digits":
        convolutions = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 10)
        )
        return _problem(name, convolutions, inputs, labels, nn.functional.cross_entropy, 1e-3)
    if name == "lstm-digits":
        return _problem(name, _Rows(), inputs[:200], labels[:200], nn.functional.cross_entropy, 1e-3)
    raise UserError(f"problem = {name!r}: unknown; use one of {', '.join((*DATA_DEVELOPMENT, *DATA_HELD_OUT))}")


class _Rows(nn.Module):
    """An LSTM that reads an 8 x 8 image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 10, batch_first=True), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])
        return out


def _dense(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def _problem(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Head, l2: float) -> Problem:
    """Mean loss and (l2/2)||w||²; weights are uniform of the size 1/sqrt(fan-in), biases 0, of a linear model all 0."""
    model = model.double()
    names, shapes = zip(*((key, value.shape) for key, value in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    draw = torch.Generator().manual_seed(7)
    parts = []
    for shape in shapes:
        flat = len(shape) < 2 or isinstance(model, nn.Linear)
        bound = 0.0 if flat else shape[1:].numel() ** -0.5
        parts.append(bound * (2 * torch.rand(shape.numel(), generator=draw, dtype=torch.float64) - 1))

    def fun(x: Tensor) -> Tensor:
        split = torch.split_with_sizes(x, sizes)
        parameters = {key: part.view(shape) for key, part, shape in zip(names, split, shapes, strict=True)}
        outputs = torch.func.functional_call(model, parameters, (inputs.to(x.dtype),))
        wanted = targets if targets.dtype == torch.long else targets.to(x.dtype)
        return loss(outputs, wanted) + 0.5 * l2 * (x * x).sum()

    return Problem(name, fun, torch.cat(parts), max_calls=MAX_CALLS)


@functools.cache
def table_of(name: str, standardise: bool = True) -> tuple[Tensor, Tensor]:
    """Return features (N, D), in units of their standard deviation unless raw, and targets (N,), both float64."""
    try:
        from sklearn import datasets
    except ImportError:
        raise UserError("problem: tables need scikit-learn; pip install scikit-learn") from None
    load = {"cancer": "load_breast_cancer"}.get(name, f"load_{name}")
    x, y = getattr(datasets, load)(return_X_y=True)
    inputs = torch.tensor(x, dtype=torch.float64)
    if standardise:
        deviation = inputs.std(0)
        inputs = (inputs - inputs.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    return inputs, torch.tensor(y, dtype=torch.float64)


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs.squeeze(1) - targets) ** 2).mean()


def _pseudo_huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return (torch.sqrt(1 + (outputs.squeeze(1) - targets) ** 2) - 1).mean()


def _poisson(outputs: Tensor, targets: Tensor) -> Tensor:
    log_rate = outputs.squeeze(1)
    return (torch.exp(log_rate) - targets * log_rate).mean()
