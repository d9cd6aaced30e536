"""The Gauss-Newton matrix of a small model, written out and factorised: one factorisation serves any number of solves.

B = (1/K) sum_i J_i' A_i J_i + l2 I with J_i the Jacobian of sample i's outputs in w and A_i the Hessian of its loss in
the outputs, A_i = R_i R_i': each of the M columns of R_i costs one gradient per sample, whatever P is, where P products
would cost P of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from subsetopt.analysis.sample_jacobians import SampleJacobians, sample_jacobians
from subsetopt.inputs import Inputs
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.objective import Objective

LARGEST = 8000
"""Parameters at most: the matrix takes 8 P^2 bytes, half a GB here."""

FLOPS = 4e12
"""Operations at most for the P x P products: some minutes on one core."""

EQUATIONS = 2048
"""Rows of w's length that are held at a time."""

BLOCK = 768
"""Rows of the matrix that are added to at a time, up to their diagonal: half of the products are spared."""


@dataclass
class OutputRows:
    """Outputs z of n samples, gradients e and Hessian products of their losses, and the Jacobians of the outputs."""

    objective: Objective
    w: Tensor
    x: Inputs
    y: Tensor

    def __post_init__(self) -> None:
        flat, loss = self.objective.flat, self.objective.loss
        with torch.no_grad():
            self.z = flat.forward(self.w, self.x, "deterministic")
        z = self.z.clone().requires_grad_()
        self.losses = loss.per_sample(z, self.y)
        (self.e,) = torch.autograd.grad(self.losses.sum(), z)
        self.output_hessian = loss.output_hessian(self.z, self.y)

    @cached_property
    def jacobians(self) -> SampleJacobians:
        """The Jacobians of the outputs; what they keep is recorded when they are first asked for."""
        return sample_jacobians(self.objective.flat, self.w, self.x)

    def hessian_roots(self) -> Tensor:
        """Return R_i with R_i R_i' = A_i, shape (n, M, r); what is zero to rounding in all samples is left out.

        For softmax r = M - 1: its Hessians know nothing of what all outputs have in common.
        """
        flat = self.z.flatten(1)
        units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        columns = [self.output_hessian(unit.expand_as(flat).reshape(self.z.shape)).flatten(1) for unit in units]
        values, vectors = torch.linalg.eigh(torch.stack(columns, 2))
        rounding = values.shape[1] * torch.finfo(values.dtype).eps * values.amax()
        roots: Tensor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(1)
        return roots[:, :, (values > rounding).any(0)]


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
    piece = max(1, EQUATIONS // objective.n_outputs)
    with exact_arithmetic(objective.device, objective.allow_tf32):
        for index in range(len(objective.edges)):
            for x, y in zip(*(part.split(piece) for part in objective.chunk(index)), strict=True):
                _add_gram(matrix, _half_rows(OutputRows(objective, w, x, y)), 1 / objective.n_samples)
    matrix.diagonal().add_(objective.l2)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise FloatingPointError("the Gauss-Newton matrix is not positive definite")
    return factor


def trace_by_factor(objective: Objective, w: Tensor, factor: Tensor, groups: Tensor) -> float:
    """Return tr(B^-1 C) exactly, C the covariance within `groups` (K,) of the samples' gradients without the L2 term.

    B = L L' with L = `factor`; C has the divisor K - (number of groups). Charged as one gradient of all samples.
    """
    objective.charge_product("gradient", objective.n_samples)
    _, index, sizes = torch.unique(groups.to(w.device), return_inverse=True, return_counts=True)
    sums, squares = w.new_zeros(len(sizes), len(w)), w.new_zeros(())
    with exact_arithmetic(objective.device, objective.allow_tf32):
        for number, (begin, end) in enumerate(objective.edges):
            pieces = (part.split(EQUATIONS) for part in (*objective.chunk(number), index[begin:end]))
            for x, y, group in zip(*pieces, strict=True):
                rows = OutputRows(objective, w, x, y)
                gradients = rows.jacobians.pull_back(rows.e)
                squares += torch.linalg.solve_triangular(factor, gradients.T, upper=False).square().sum()
                sums.index_add_(0, group, gradients)
        means = torch.linalg.solve_triangular(factor, (sums / sizes.sqrt().unsqueeze(1)).T, upper=False)
        return float((squares - means.square().sum()) / (len(groups) - len(sizes)))


def _half_rows(rows: OutputRows) -> Tensor:
    """Return R_i' J_i for all samples, shape (n r, P)."""
    none = rows.w.new_zeros(0, len(rows.w))  # of samples whose losses have no curvature left
    columns = rows.hessian_roots().unbind(2)
    return torch.cat([none, *(rows.jacobians.pull_back(column.reshape(rows.z.shape)) for column in columns)])


def _add_gram(matrix: Tensor, rows: Tensor, scale: float) -> None:
    """Add scale times rows' rows to the lower triangle of `matrix`, and to some of the upper one, in blocks."""
    for start in range(0, len(matrix), BLOCK):
        stop = min(start + BLOCK, len(matrix))
        matrix[start:stop, :stop].addmm_(rows[:, start:stop].T, rows[:, :stop], alpha=scale)
