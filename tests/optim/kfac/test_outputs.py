"""Noise at the outputs against dense Hessians: all sign patterns are gone through, so that means are exact."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev

from subsetopt.optim.kfac import outputs as module
from subsetopt.optim.kfac.outputs import OutputRows, curvature_noise, told_loss
from subsetopt.seeding import make_generator

F = nn.functional


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=make_generator(0, "z"), dtype=torch.float64)


def moments(loss: str, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the mean of u u' over all signs, for one row z (M,)."""
    total = torch.zeros(len(z), len(z), dtype=z.dtype)
    patterns = list(itertools.product((0, 1), repeat=len(z)))
    for bits in patterns:
        drawn = torch.tensor([bits])
        monkeypatch.setattr(module.torch, "randint", lambda *args, drawn=drawn, **kwargs: drawn)
        rows = OutputRows(z[None], torch.ones_like(z)[None], z[None].shape, False)
        u, _ = curvature_noise(loss, rows, make_generator(0, ""), 1, 0)  # type: ignore[arg-type]  # names as strings
        total += u.T @ u / len(patterns)
    return total


def test_noise_has_the_hessian_of_each_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y, target = logits(4), torch.tensor(2), torch.tensor([0.0, 1, 1, 0], dtype=torch.float64)
    for loss, function in (
        ("cross_entropy", lambda z: F.cross_entropy(z[None], y[None])),
        ("binary_cross_entropy", lambda z: F.binary_cross_entropy_with_logits(z, target)),
    ):
        found, wanted = moments(loss, z, monkeypatch), hessian(function)(z)
        assert isinstance(wanted, Tensor)
        # Signs are independent: their products off the diagonal of a diagonal Hessian vanish in the mean.
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        moments("mse", z, monkeypatch), torch.eye(4, dtype=z.dtype) * 0.5, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("last", [lambda z: z.log_softmax(0), lambda z: z.softmax(0)])
def test_noise_of_probabilities_is_that_of_logits_behind_the_softmax(last, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]  # a parameter
    z = logits(4)
    jacobian = jacrev(last)(z)
    assert isinstance(jacobian, Tensor)
    found = jacobian.T @ moments("cross_entropy", last(z).detach(), monkeypatch) @ jacobian
    p = z.softmax(0)
    torch.testing.assert_close(found, torch.diag(p) - torch.outer(p, p), rtol=1e-9, atol=1e-12)


def told(z: Tensor, loss: Tensor) -> tuple[str, bool]:
    (gradient,) = torch.autograd.grad(loss, z)
    return told_loss(z, gradient)


def test_the_gradient_tells_the_loss() -> None:
    draw = make_generator(1, "y")
    classes = torch.randint(0, 4, (30,), generator=draw)
    for dtype in (torch.float32, torch.float64):
        z = logits(30, 4).to(dtype).requires_grad_()
        assert told(z, F.cross_entropy(z, classes)) == ("cross_entropy", False)
        assert told(z, F.cross_entropy(z, classes, label_smoothing=0.1) / 3) == ("cross_entropy", False)
        assert told(z, F.cross_entropy(z, torch.where(classes == 1, -100, classes))) == ("cross_entropy", False)
        binary = (classes[:, None] == torch.arange(4)).to(dtype)
        assert told(z, F.binary_cross_entropy_with_logits(z, binary)) == ("binary_cross_entropy", False)
        assert told(z, F.mse_loss(z, binary)) == ("mse", False)
        assert told(z, F.huber_loss(z, binary)) == ("mse", False)
        one = logits(30).to(dtype).requires_grad_()
        assert told(one, F.binary_cross_entropy_with_logits(one, binary[:, 0])) == ("binary_cross_entropy", False)
        assert told(one, F.mse_loss(one, binary[:, 0])) == ("mse", False)
        log = z.detach().log_softmax(1).requires_grad_()
        assert told(log, F.nll_loss(log, classes)) == ("cross_entropy", False)
        image = logits(5, 4, 6).to(dtype).requires_grad_()
        assert told(image, F.cross_entropy(image, classes.reshape(5, 6))) == ("cross_entropy", True)
        text = logits(5, 6, 4).to(dtype).requires_grad_()
        assert told(text, F.cross_entropy(text.flatten(0, 1), classes)) == ("cross_entropy", False)
