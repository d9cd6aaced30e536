"""p-SGD: a budgeted epoch of samples that the model predicts badly.

## What it does
Keeps for every sample the mean over all its visits of 1 - p[y], read off the training forward for free, and draws each
epoch's floor(fraction N) samples without replacement, in proportion to it.

## Formula
s_i = mean over visits of 1 - p_i[y_i]; P_i = (s_i + s_mean) / (2 N s_mean), s_mean = mean of s.
Unseen samples take the maximum of s over the samples seen. Drawing without replacement flattens importance:
at fraction 0.3 with a tenth of the samples at s = 1 and the rest at 0, nominal inclusion under P_i = (s_i + s_mean) /
(2 N s_mean) of 1.65 / 0.15 becomes 0.94 / 0.23; `statistics` reports the realised inclusion.
`correction`: with q_i = 1 - exp(-P_i tau), the inclusion probability given the first arrival tau that missed the
epoch, weights k / (N q_i) are exactly unbiased for k draws without replacement; with replacement they are 1 / (N P_i).
"self-normalised" scales them to mean one in every batch.

## Settings
- `fraction` (0.3): budget b, draws per epoch as a share of N.
- `replacement` (False): draw with replacement.
- `correction` ("none"): "none", "importance" or "self-normalised".

## True cost
`fraction` epoch-equivalents per epoch; the state costs no model call. Drawing costs O(N log N) once an epoch.

## Source
Arazo, Ortego, Albert, O'Connor and McGuinness 2021, "How important is importance sampling for deep budgeted training?",
arXiv 2110.14283. They train 200 epochs times the budget, batch 128, rate 0.1 decayed linearly.

## Deviations from the official code
The original has no correction. Mixing augmentations credit every donor in proportion to its share (public code
credits the wrong samples under RICAP, and y_a even where lambda < 1/2 under mixup).
"""

from __future__ import annotations

from torch import Tensor

from subsetopt.samplers.factory import register
from subsetopt.samplers.loss_memory import BudgetedImportance


@register("p-sgd", "budgeted epochs in proportion to 1 - p[y], the mean over visits (Arazo et al.)")
class PSgd(BudgetedImportance):
    """Importance by the mean error probability of each sample."""

    def score(self, s: Tensor) -> Tensor:
        """Return s itself."""
        return s
