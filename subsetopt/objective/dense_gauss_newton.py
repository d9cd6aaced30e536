"""The Gauss-Newton matrix of a small model, written out and factorised: one factorisation serves any number of solves.

B = (1/K) sum_i J_i' A_i J_i + l2 I with J_i the Jacobian of sample i's outputs in w and A_i the Hessian of its loss in
the outputs, A_i = R_i R_i': each of the M columns of R_i costs one gradient per sample, whatever P is, where P products
would cost P of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.objective import Objective

LARGEST = 8000
"""Parameters at most: the matrix takes 8 P^2 bytes, half a GB here."""

FLOPS = 4e12
"""Operations at most for the P x P products: some minutes on one core."""


@dataclass
class OutputRows:
    """Outputs z, gradient e and Hessian products of the losses of n samples, and products with their Jacobians."""

    objective: Objective
    w: Tensor
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        flat, loss = self.objective.flat, self.objective.loss
        with torch.no_grad():
            self.z = flat.forward(self.w, self.x, "deterministic")
        z = self.z.clone().requires_grad_()
        self.losses = loss.per_sample(z, self.y)
        (self.e,) = torch.autograd.grad(self.losses.sum(), z)
        self.output_hessian = loss.output_hessian(self.z, self.y)

    def _outputs(self, p: Tensor, row: Tensor) -> Tensor:
        return self.objective.flat.functional(self.objective.flat.views(p), row.unsqueeze(0)).squeeze(0)

    def pull_back(self, u: Tensor) -> Tensor:
        """Return J_i' u_i for u (n, ...outputs), shape (n, P)."""

        def one(row: Tensor, cotangent: Tensor) -> Tensor:
            _, pull, *_ = vjp(lambda p: self._outputs(p, row), self.w)
            return cast(Tensor, pull(cotangent)[0])

        with self.objective.flat.at(self.objective.flat.views(self.w), "deterministic"):
            return vmap(one)(self.x, u)

    def push_forward(self, v: Tensor) -> Tensor:
        """Return J_i v_i for v (n, P), in the shape of the outputs."""

        def one(row: Tensor, tangent: Tensor) -> Tensor:
            return cast(Tensor, jvp(lambda p: self._outputs(p, row), (self.w,), (tangent,))[1])

        with self.objective.flat.at(self.objective.flat.views(self.w), "deterministic"):
            return vmap(one)(self.x, v)

    def hessian_roots(self) -> Tensor:
        """Return R_i with R_i R_i' = A_i, shape (n, M, M); negative eigenvalues, of rounding, count as zero."""
        flat = self.z.flatten(1)
        units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        columns = [self.output_hessian(unit.expand_as(flat).reshape(self.z.shape)).flatten(1) for unit in units]
        values, vectors = torch.linalg.eigh(torch.stack(columns, 2))
        roots: Tensor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(1)
        return roots


def affordable(objective: Objective) -> bool:
    """Whether `factorised` fits into memory and some minutes; BatchNorm has no outputs of single samples."""
    size, equations = objective.size, objective.n_samples * objective.n_outputs
    return not objective.flat.batch_dependent and size <= LARGEST and 2.0 * size**2 * equations <= FLOPS


def factorised(objective: Objective, w: Tensor) -> Tensor:
    """Return the lower Cholesky factor L (P, P) of B = L L' at w; charged as M gradients of all samples.

    Raises `FloatingPointError` where B is not positive definite, `RuntimeError` for a model that torch.func cannot
    map over samples.
    """
    matrix = torch.zeros(objective.size, objective.size, dtype=w.dtype, device=w.device)
    objective.charge_product("gradient", objective.n_samples * objective.n_outputs)
    with exact_arithmetic(objective.device, objective.allow_tf32):
        for index in range(len(objective.edges)):
            rows = OutputRows(objective, w, *objective.chunk(index))
            for column in rows.hessian_roots().unbind(2):
                jacobian = rows.pull_back(column.reshape(rows.z.shape))
                matrix.addmm_(jacobian.T, jacobian, alpha=1 / objective.n_samples)
    matrix.diagonal().add_(objective.l2)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise FloatingPointError("the Gauss-Newton matrix is not positive definite")
    return factor
