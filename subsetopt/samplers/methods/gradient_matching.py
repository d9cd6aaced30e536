"""Gradient matching: keep the part of a batch whose weighted last-layer gradients match the whole batch's.

## What it does
Every candidate batch gets a forward pass in eval mode without graph; from probabilities and penultimate features it
chooses at most k = floor(fraction B) rows and non-negative weights, forwards these with graph, and steps.
Reconstruction.

## Formula
min over S, |S| <= k, and w >= 0 of ||g_bar - sum_{i in S} w_i g_i||^2 + lambda ||w||^2, with the last-layer gradients
g_i = (p_i - y_i) [h_i, 1]^T and their mean g_bar over the batch, through the Gram matrix
G_ij = <e_i, e_j> (<h_i, h_j> + 1): no g_i is built. Orthogonal matching pursuit, refitted under w >= 0 after each pick.
The loss is sum_i w_i l_i; in the convention of this library that is weights |S| w_i.

## Settings
- `fraction` (0.25): share q of each batch that may be kept.
- `ridge` (1e-6): lambda, relative to the mean squared gradient norm of the batch.
- `renormalise` (False): scale w to sum one, so that the step length does not depend on the fit.

## True cost
A forward for every candidate plus forward and backward for the kept share q: (1 + 3q)/3 epoch-equivalents per epoch at
three forwards per gradient. The matching is charged, too: about 0.01 % of a ResNet-18 forward, but several times the
training of a small MLP on digits. Its Gram matrix is one transfer to the host (B^2 numbers).

## Source
Balles, Archambeau and Zappella 2023, "A negative result on gradient matching for Selective Backprop", arXiv 2312.05021.

## Deviations from the official code
Reconstruction from the paper's description: their code was not at hand. Fewer than k rows are returned where the
non-negative fit is already exact; picks are never padded, and weights stay beside their rows after a removal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import gram, residuals
from subsetopt.samplers.omp import Matching, omp_nonnegative
from subsetopt.samplers.protocol import Batch, Seen
from subsetopt.settings import CheckedSettings, rows_of, setting


def match_mean_gradient(e: Tensor, h: Tensor, k: int, ridge: float) -> Matching:
    """Return rows and weights w with sum w_i g_i close to the mean of g over `e` `(b, M)`, `h` `(b, D)`.

    `ridge` is relative to the mean of ||g_i||^2. The transfer of the Gram matrix is the only synchronisation.
    """
    G = gram(e, h).cpu().numpy().astype(np.float64)
    return omp_nonnegative(lambda i: G[i], G.mean(1), k, ridge * float(np.trace(G)) / len(G))


@dataclass(frozen=True)
class GradientMatchingSettings(CheckedSettings):
    """See the method card."""

    fraction: float = setting(0.25, above=0, at_most=1)
    ridge: float = setting(1e-6, at_least=0)
    renormalise: bool = False


@register("gradient-matching", "keep the rows of a batch whose weighted last-layer gradients match its mean gradient")
class GradientMatching(QueueSampler):
    """Non-negative matching pursuit on every candidate batch."""

    Settings = GradientMatchingSettings
    settings: GradientMatchingSettings
    granularity = "batch"
    needs_selection_forward = True
    needs = frozenset({"probabilities", "features"})

    def draw_block(self) -> Batch:
        """Return all samples in a new order as candidates."""
        return Batch(draw_permutation(self.n_samples, self.n_samples, self.generator, self.device))

    def keep(self, batch: Batch, seen: Seen) -> Batch | None:
        """Match the mean last-layer gradient of the candidates; None where it is zero."""
        probabilities, features, targets = seen.probabilities, seen.features, seen.targets
        if probabilities is None or features is None or targets is None:
            raise SettingError("sampler", self.name, "select got no probabilities, features or targets", "pass them")
        k = rows_of(self.settings.fraction, len(batch.indices))
        e = residuals(probabilities, targets)
        support, w = match_mean_gradient(e, features.detach().float().flatten(1), k, self.settings.ridge)
        if not len(support):  # the mean gradient is zero: there is nothing to learn from this batch
            return None
        if self.settings.renormalise:
            w = w / w.sum()
        weights = torch.from_numpy((len(w) * w).astype(np.float32)).to(self.device)
        return Batch(batch.indices[torch.from_numpy(support).to(self.device)], weights)
