"""`subsetopt.optim.KFAC` against dense Gauss-Newton steps, one process against two, and what torch's optimizers do."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.optim import KFAC
from subsetopt.seeding import make_generator, seeded_globals


def data(n: int = 48, d: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d, generator=make_generator(0, "x"), dtype=dtype)
    return x, torch.sin(x.sum(1, keepdim=True))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with seeded_globals(0, "init"):
        return make()


def gradients(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad()
    loss.backward()


def dense_step(x: Tensor, gradient: Tensor, damping: float, bias: bool) -> Tensor:
    """(F + damping I)^-1 g of one linear output under mean squared error: F = 2 E[a a']."""
    rows = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if bias else x
    fisher = 2 * rows.T @ rows / len(rows)
    return torch.linalg.solve(fisher + damping * torch.eye(len(fisher), dtype=x.dtype), gradient)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
def test_a_step_on_one_linear_output_is_the_damped_newton_step(bias: bool, maximize: bool) -> None:
    x, y = data()
    model = made(lambda: nn.Linear(5, 1, bias=bias).double())
    optimizer = KFAC(model, lr=0.7, damping=0.3, momentum=0.0, trust=1e9, maximize=maximize, weight_decay=0.2)
    loss = ((model(x) - y) ** 2).mean() * (-1 if maximize else 1)
    gradients(model, loss)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    gradient = (-gradient if maximize else gradient) + 0.2 * before
    torch.testing.assert_close(before - after, 0.7 * dense_step(x, gradient, 0.3, bias), rtol=1e-9, atol=1e-12)


def test_the_step_changes_the_outputs_by_no_more_than_trust_allows() -> None:
    """16 s'Fs = trust times the mean squared residual, F = 2 E[a a'] (closed form)."""
    x, y = data()
    model = made(lambda: nn.Linear(5, 1, bias=False).double())
    with torch.no_grad():
        model.weight.mul_(100)
    optimizer = KFAC(model, lr=1.0, momentum=0.0, trust=0.01, damping=1e-6)
    loss = ((model(x) - y) ** 2).mean()
    gradients(model, loss)
    before = model.weight.detach().clone()
    optimizer.step()
    step = (model.weight.detach() - before).flatten()
    torch.testing.assert_close(16 * 2 * ((x @ step) ** 2).mean(), 0.01 * loss.detach(), rtol=1e-6, atol=0)


class Mixed(nn.Module):
    """Every rule at once: Kronecker blocks, diagonals, and parameters that Adam takes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, 6), nn.LayerNorm(6)
        self.conv = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.lstm, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(self.embed(tokens))
        hidden = hidden + self.conv(hidden[:, None]).mean(1)
        logits: Tensor = self.head(self.lstm(hidden)[0][:, -1]) * self.scale
        return logits


def tokens(n: int = 40) -> tuple[Tensor, Tensor]:
    draw = make_generator(0, "tokens")
    t = torch.randint(0, 7, (n, 5), generator=draw)
    return t, t.sum(1) % 3


def fit(model: nn.Module, optimizer: Any, steps: int, begin: int = 0) -> list[float]:
    x, y = tokens()
    losses = []
    for step in range(begin, begin + steps):
        rows = torch.randperm(len(x), generator=make_generator(step, "rows"))[:20]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_resumed_training_is_the_same_bit_by_bit_and_the_state_needs_no_pickle() -> None:
    model = made(Mixed)
    optimizer = KFAC(model)
    with pytest.warns(UserWarning, match=r"lstm\.weight_ih_l0, .*scale; they take Adam steps"):
        fit(model, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other = made(Mixed)
    again = KFAC(other)
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fit(model, optimizer, 6, 5) == fit(other, again, 6, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_deep_copy_goes_on_alike() -> None:
    model = made(Mixed)
    optimizer = KFAC(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, optimizer, 3)
        other, again = copy.deepcopy((model, optimizer))
        assert fit(model, optimizer, 3, 3) == fit(other, again, 3, 3)


def test_untuned_it_is_ahead_of_adam_in_steps_on_digits() -> None:
    from subsetopt import load_dataset

    digits = load_dataset("digits").train
    x, y = digits.inputs.float().flatten(1) / 16, digits.targets

    def loss_after(make: Callable[[nn.Module], Any]) -> float:
        model = made(lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))
        optimizer = make(model)
        for rows in torch.randperm(len(x), generator=make_generator(0, "order")).split(64):
            gradients(model, nn.functional.cross_entropy(model(x[rows]), y[rows]))
            optimizer.step()
        return float(nn.functional.cross_entropy(model(x), y).detach())

    rates = [loss_after(lambda model, lr=lr: torch.optim.Adam(model.parameters(), lr)) for lr in (1e-3, 3e-3, 1e-2)]
    assert loss_after(KFAC) < 0.7 * min(rates)


def test_groups_schedulers_frozen_parameters_and_missing_gradients() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1), nn.Linear(3, 2)).double())
    model[0].bias.requires_grad_(False)
    unused, frozen = model[3].weight.detach().clone(), model[0].bias.detach().clone()
    optimizer = KFAC([{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}])
    optimizer.add_param_group({"params": model[3].parameters(), "weight_decay": 0.5})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    x, y = data()
    first = None
    for _ in range(6):
        optimizer.zero_grad(set_to_none=False)
        loss = ((model[:3](x) - y) ** 2).mean()
        first = loss.detach() if first is None else first
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert loss < 0.95 * first and torch.equal(model[3].weight, unused) and torch.equal(model[0].bias, frozen)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 1e-3)
    before = model[2].weight.detach().clone()
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.zero_grad()
    ((model[:3](x) - y) ** 2).mean().backward()
    optimizer.step()
    assert torch.equal(model[2].weight, before)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = made(lambda: nn.Linear(5, 1).double())
    optimizer, (x, y) = KFAC(model.parameters()), data()
    gradients(model, ((model(x) - y) ** 2).mean())
    optimizer.step()
    before = model.weight.detach().clone()
    gradients(model, ((model(x) * float("nan")) ** 2).mean())
    with pytest.warns(UserWarning, match="not finite"):
        optimizer.step()
    assert torch.equal(model.weight, before)
    gradients(model, ((model(x) - y) ** 2).mean())
    optimizer.step()
    assert not torch.equal(model.weight, before) and bool(model.weight.isfinite().all())


def test_accumulated_gradients_and_a_closure() -> None:
    model, (x, y) = made(lambda: nn.Linear(5, 1).double()), data()
    optimizer = KFAC(model, damping=0.1, momentum=0.0, trust=1e9)
    for part in (slice(0, 24), slice(24, 48)):
        (((model(x[part]) - y[part]) ** 2).mean() / 2).backward()
    optimizer.step()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first


def test_evaluation_between_steps_leaves_no_trace() -> None:
    """Neither a forward pass without backward, nor one without gradients, changes what the next step does."""
    ends = []
    for peek in (False, True):
        model, (x, y) = made(lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()), data()
        optimizer = KFAC(model)
        for _ in range(3):
            gradients(model, ((model(x) - y) ** 2).mean())
            optimizer.step()
            if peek:
                model.eval()
                with torch.no_grad():
                    model(x)
                model(x[:3])
                model.train()
        ends.append(model[0].weight.detach().clone())
    assert torch.equal(*ends)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "lr = -1.0"),
    ({"momentum": 1.0}, "momentum = 1.0"),
    ({"damping": 0.0}, "damping = 0.0"),
    ({"trust": float("nan")}, "trust = nan"),
    ({"weight_decay": -1}, "weight_decay = -1"),
    ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
    ({"update_every": 0}, "update_every = 0"),
    ({"memory": 1.5}, "memory = 1.5"),
    ({"maximize": 1}, "maximize = 1"),
    ({"fallback_lr": float("inf")}, "fallback_lr = inf"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_mistakes_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        KFAC(nn.Linear(2, 1), **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(UserError, match="complex"):
        KFAC([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    with pytest.raises(UserError, match="bfloat16"):
        KFAC(nn.Linear(2, 1).bfloat16())
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = KFAC(table)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(UserError, match="sparse"):
        optimizer.step()
    model = nn.Linear(2, 1)
    optimizer = KFAC(model)
    with pytest.raises(UserError, match="autocast"), torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.ones(3, 2))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(3, 2)).sum()).backward()
    with pytest.raises(UserError, match="GradScaler"):
        scaler.step(optimizer)


class SelfAttention(nn.Module):
    """Two heads of self-attention, by torch's module or written out of linear layers."""

    def __init__(self, like: SelfAttention | None = None) -> None:
        super().__init__()
        self.written = like is None
        if like is None:
            self.into, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        else:
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            with torch.no_grad():
                for p, q in zip(self.attention.parameters(), like.parameters(), strict=True):
                    p.copy_(q)

    def forward(self, x: Tensor) -> Tensor:
        if not self.written:
            attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return attended.mean(1)
        q, k, v = self.into(x).view(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        averaged: Tensor = self.out(mixed.transpose(1, 2).flatten(2)).mean(1)
        return averaged


class OwnLinear(nn.Module):
    """A layer that gives parameters of its own to F.linear, and one without a bias."""

    def __init__(self, like: nn.Sequential) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in like[0].parameters())
        self.out = nn.Parameter(next(like[2].parameters()).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.weight, self.bias).tanh_(), self.out)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))


@pytest.mark.parametrize("kind", ["attention", "F.linear"])
def test_projections_and_applied_parameters_are_taken_for_linear_layers(kind: str) -> None:
    """Step by step what a model of nn.Linear does; before, they took Adam steps, and out_proj with a '?' for a name."""
    shape = (20, 3, 4) if kind == "attention" else (20, 4)
    x = torch.randn(shape, generator=make_generator(0, "attention"), dtype=torch.float64)
    labels = torch.arange(20) % 4
    one: nn.Module = made(SelfAttention if kind == "attention" else plain).double()
    two = SelfAttention(one).double() if isinstance(one, SelfAttention) else OwnLinear(plain_of(one)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (one, two):
            optimizer = KFAC(model, lr=0.3)
            for _ in range(4):
                gradients(model, nn.functional.cross_entropy(model(x), labels))
                optimizer.step()
            assert all("a.moment" in optimizer.state[p] for p in model.parameters() if p.dim() == 2)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(q, p)
    assert not torch.overrides._get_current_function_mode_stack(), "what looks into a forward pass is left with it"


def plain_of(model: nn.Module) -> nn.Sequential:
    assert isinstance(model, nn.Sequential)
    return model


def test_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    model = OwnLinear(plain())
    KFAC(model)
    with pytest.raises(RuntimeError):
        model(torch.randn(3, 7))
    assert not torch.overrides._get_current_function_mode_stack()


def test_attention_between_two_inputs_takes_adam_steps_and_is_named() -> None:
    model = made(lambda: nn.MultiheadAttention(4, 2, batch_first=True))
    x = torch.randn(6, 3, 4, generator=make_generator(0, "attention"))
    optimizer = KFAC(model)
    gradients(model, model(x, x + 1, x)[0].square().mean())
    with pytest.warns(UserWarning, match=r"no factors for in_proj_bias, in_proj_weight, out_proj\.bias"):
        optimizer.step()


def test_a_transposed_convolution_has_the_step_of_the_convolution_by_its_flipped_kernel() -> None:
    one, two = made(lambda: nn.ConvTranspose1d(3, 2, 3)).double(), nn.Conv1d(3, 2, 3, padding=2).double()

    def turned() -> Tensor:
        return next(one.parameters()).detach().transpose(0, 1).flip(2)

    with torch.no_grad():
        for p, value in zip(two.parameters(), (turned(), one.bias), strict=True):
            p.copy_(value)
    x = torch.randn(12, 3, 5, generator=make_generator(0, "line"), dtype=torch.float64)
    for model in (one, two):
        optimizer = KFAC(model, lr=0.5)
        for _ in range(3):
            gradients(model, torch.tanh(model(x)).mean(2).square().mean())
            optimizer.step()
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    torch.testing.assert_close(two.weight.detach(), turned())
    torch.testing.assert_close(two.bias, one.bias)


def test_parameters_without_shape_or_values_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="params = 'lazy': parameters have no shape yet; run the model once"):
        KFAC(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(UserError, match="params = 'meta': parameters hold no numbers"):
        KFAC(nn.Linear(3, 2, device="meta"))
