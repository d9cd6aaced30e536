"""GLISTER: the samples whose gradients lower the validation loss most.

## What it does
Every `scan_period` epochs, picks greedily the rows whose last-layer gradient step lowers the loss on the validation set
(on the training set where there is none), and trains on these, unweighted, in between.

## Formula
Gain of row i given S: <g_i, grad L_val(theta - eta mean_{j in S} g_j)>, g_i = (p_i - y_i) [h_i, 1]^T. In the last layer
the moved validation outputs are exact: z_v - eta mean_j e_j (<h_j, h_v> + 1), and z_v = log p_v up to a constant that
softmax ignores; so the validation gradient is evaluated, not extrapolated, after every round of picks.

## Settings
- `fraction` (0.1): size of the subset as a share of N.
- `scan_period` (20): epochs (of the subset) between selections.
- `eta` (1.0): step length of the virtual step along the mean gradient of the picks.
- `rounds` (20): validation gradients per selection; each round picks an equal share by gain.

## True cost
`fraction` epoch-equivalents per epoch, and one forward over all N training samples and all validation samples per
selection. Greedy needs `rounds` products of `(N, D)` with `(D, M)`.

## Source
Killamsetty et al. 2021, "GLISTER: generalization based data subset selection", arXiv 2012.10630; CORDS.

## Deviations from the official code
The virtual step follows the mean gradient of the picks, not their sum, so that it does not grow with the subset. The
first round uses the validation gradient at theta. Selection is not stochastic greedy: all rows are candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.errors import DataError
from subsetopt.samplers.coreset import CoresetSampler
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import inner_with
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import check_count, check_fraction, check_number, rows_of


def greedy_validation_gain(train: Scan, validation: Scan, k: int, eta: float, rounds: int) -> Tensor:
    """Return `k` training rows by greedy gain in validation loss, in the order of picking."""
    e, h = train.residuals.float(), train.features.float()
    e_val, h_val = validation.residuals.float(), validation.features.float()
    one_hot = torch.zeros_like(e_val).scatter_(1, validation.targets[:, None], 1.0)
    outputs = (e_val + one_hot).clamp_min(torch.finfo(torch.float32).tiny).log()
    step_weight, step_bias = torch.zeros_like(e[:1].T @ h[:1]), torch.zeros_like(e[0])
    free = torch.ones(len(e), dtype=torch.bool, device=e.device)
    picked: list[Tensor] = []
    done = 0
    for share in _shares(k, rounds):
        moved = outputs - eta / max(done, 1) * (h_val @ step_weight.T + step_bias)
        residual = (moved.softmax(1) - one_hot) / len(one_hot)
        gains = inner_with(e, h, residual.T @ h_val, residual.sum(0)).masked_fill(~free, -torch.inf)
        rows = gains.topk(share).indices
        free[rows] = False
        step_weight += e[rows].T @ h[rows]
        step_bias += e[rows].sum(0)
        picked.append(rows)
        done += share
    return torch.cat(picked)


def _shares(k: int, rounds: int) -> list[int]:
    """Split `k` picks into at most `rounds` rounds of nearly equal size."""
    rounds = min(k, rounds)
    return [k // rounds + (i < k % rounds) for i in range(rounds)]


@dataclass(frozen=True)
class GlisterSettings:
    """See the method card."""

    fraction: float = 0.1
    scan_period: int = 20
    eta: float = 1.0
    rounds: int = 20

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_count("scan_period", self.scan_period)
        check_number("eta", self.eta, 0)
        check_count("rounds", self.rounds)


@register("glister", "coreset: greedy gain in validation loss (GLISTER)")
class Glister(CoresetSampler):
    """Greedy selection against a validation set."""

    Settings = GlisterSettings
    settings: GlisterSettings
    needs_validation_scan = True

    def choose(self, scan: Scan, validation: Scan | None) -> Batch:
        """Return the picks, unweighted."""
        if scan.targets.is_floating_point():
            raise DataError("glister needs class targets; choose another sampler for regression")
        s, k = self.settings, rows_of(self.settings.fraction, self.n_samples)
        return Batch(greedy_validation_gain(scan, scan if validation is None else validation, k, s.eta, s.rounds))
