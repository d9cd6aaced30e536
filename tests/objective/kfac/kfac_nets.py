"""Models with K-FAC estimates, their dense matrices, and gradients of single samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt.objective import BudgetExhausted, FlatModel, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator


def built(*layers: nn.Module) -> FlatModel:
    return FlatModel(nn.Sequential(*layers).double())


def fitted(flat: FlatModel, x: Tensor, y: Tensor, loss: str = "cross_entropy", **settings: object) -> Kfac:
    kfac = Kfac(flat, make_loss(loss), **settings)  # type: ignore[arg-type]
    kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
    return kfac


def dense(kfac: Kfac) -> Tensor:
    return torch.stack([kfac.product(row) for row in torch.eye(kfac.flat.size, dtype=torch.float64)])


def sample_gradients(flat: FlatModel, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's own loss, shape (n, P)."""
    loss, rows = make_loss("cross_entropy"), []
    for index in range(len(x)):
        w = flat.initial().requires_grad_()
        one = slice(index, index + 1)
        value = loss.total(flat.forward(w, x[one], "deterministic"), y[one], torch.float64)
        rows += torch.autograd.grad(value, w)
    return torch.stack(rows)


def corrected(A: Tensor, G: Tensor, gradients: Tensor, matrix: Tensor) -> Tensor:
    """The Fisher block of `gradients` (n, o, d), diagonal in the eigenbasis of A and G, times a matrix (o, d)."""
    u, v = torch.linalg.eigh(G).eigenvectors, torch.linalg.eigh(A).eigenvectors
    return u @ ((u.T @ gradients @ v).square().mean(0) * (u.T @ matrix @ v)) @ v.T


class Recorder:
    """A meter that keeps what it was charged, and refuses above its limit."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit, self.entries = limit, []  # type: ignore[var-annotated]

    def charge(self, kind, samples, purpose):
        if samples > self.limit:
            raise BudgetExhausted
        self.entries.append((kind, samples, purpose))
