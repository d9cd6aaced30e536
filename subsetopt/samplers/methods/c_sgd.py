"""c-SGD: a budgeted epoch of samples that the model is undecided about.

## What it does
Keeps for every sample the mean over all its visits of 1 - p[y], read off the training forward for free, and draws each
epoch's floor(fraction N) samples without replacement, in proportion to s (1 - s), which is largest
where the model is undecided.

## Formula
s_i = mean over visits of 1 - p_i[y_i]; c_i = s_i (1 - s_i); P_i = (c_i + c_mean) / (2 N c_mean), c_mean = mean of c.
Unseen samples take the maximum of c over the samples seen. Drawing without replacement flattens importance:
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
credits the wrong samples under RICAP, and y_a even where lambda < 1/2 under mixup). Unseen samples
take the maximum of c; public code sets s = 1 there, so that c = 0 and they are almost never drawn.
"""

from __future__ import annotations

from torch import Tensor

from subsetopt.samplers.factory import register
from subsetopt.samplers.loss_memory import BudgetedImportance


@register("c-sgd", "budgeted epochs in proportion to s (1 - s), s the mean of 1 - p[y] (Arazo et al.)")
class CSgd(BudgetedImportance):
    """Importance by how undecided the model is about each sample."""

    def score(self, s: Tensor) -> Tensor:
        """Return s (1 - s)."""
        return s * (1 - s)
