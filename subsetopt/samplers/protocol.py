"""The contract between a training loop and whatever chooses its batches.

A loop needs four lines of it::

    batch = sampler.propose()
    if sampler.selection_due:  # forward without graph, in eval mode, charged to "selection"
        batch = sampler.select(batch, losses, probabilities, features, targets)
    if batch is not None:  # forward with graph, loss = (batch.weights * losses).mean(), step
        sampler.observe(batch.indices, losses, probabilities, features, targets)

Convention for weights: the loss of a batch is the *mean* of weight times loss, and no weights mean ones. A sampler
is `unbiased` when the expected gradient of that loss is the mean gradient over all n samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

Granularity = Literal["epoch", "batch"]
Quantity = Literal["losses", "probabilities", "features"]
StateDict = dict[str, Any]


class Batch(NamedTuple):
    """Rows to train on: `indices` int64 `(b,)` and `weights` float32 `(b,)`, or None where all weights are one."""

    indices: Tensor
    weights: Tensor | None = None


class Seen(NamedTuple):
    """What a forward pass showed of a batch, row by row; None for what the loop did not compute.

    `indices` `(b,)`, `losses` `(b,)`, `probabilities` `(b, M)`, `features` `(b, D)`, `targets` `(b,)`. Of mixed inputs
    `indices`, `weights` (the shares of the mixture) and `targets` have shape `(b, donors)`.
    """

    indices: Tensor
    losses: Tensor
    probabilities: Tensor | None = None
    features: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None


class Scan(NamedTuple):
    """Last-layer gradients of a whole split in factored form: sample i has the gradient e_i [h_i, 1]^T.

    `residuals` e = p - y has shape `(n, M)`, `features` h `(n, D)`, `targets` `(n,)`. `indices` `(n,)` says which
    sample each row is; None means that row i is sample i.
    """

    residuals: Tensor
    features: Tensor
    targets: Tensor
    indices: Tensor | None = None


class Sampler(Protocol):
    """Proposes batches and learns from what the loop saw.

    `needs` names what `select` and `observe` want beside indices. `needs_data` asks for one `bind` before step 0,
    `needs_scan` for a `refresh` whenever `scan_due` (about every `scan_period` epochs; with the validation split too
    where `needs_validation_scan`). All of these passes over data are for the loop to make and to charge.
    """

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def n_samples(self) -> int:
        """N, the number of samples that indices refer to."""

    @property
    def batch_size(self) -> int:
        """Rows of a proposal at most."""

    @property
    def granularity(self) -> Granularity:
        """Whether a draw is made for a whole epoch or batch by batch."""

    @property
    def needs_selection_forward(self) -> bool:
        """Whether proposals are candidates that `select` cuts down after a forward pass."""

    @property
    def selection_due(self) -> bool:
        """Whether the batch just proposed wants its selection forward; False where it is to be trained as it is."""

    @property
    def needs(self) -> frozenset[Quantity]:
        """What `select` and `observe` use."""

    @property
    def needs_data(self) -> bool:
        """Whether `bind` wants the training inputs."""

    @property
    def needs_scan(self) -> bool:
        """Whether `refresh` wants scans of the data."""

    @property
    def needs_validation_scan(self) -> bool:
        """Whether `refresh` wants a scan of the validation split too."""

    @property
    def scan_period(self) -> int | None:
        """Epochs between scans; None without scans."""

    @property
    def scan_due(self) -> bool:
        """Whether `refresh` is to be called before the next `propose`."""

    @property
    def unbiased(self) -> bool:
        """Whether the expected weighted batch gradient is the full gradient."""

    @property
    def epoch(self) -> int:
        """Zero-based index of the sampler's epoch that the latest proposal belongs to."""

    @property
    def steps_per_epoch(self) -> int:
        """Proposals per epoch of this sampler."""

    @property
    def opening(self) -> tuple[int, bool]:
        """Rows of the first proposal, and whether they are candidates; asked before anything is drawn."""

    def bind(self, inputs: Tensor) -> None:
        """Look once at the training inputs `(N, ...)`."""

    def bind_flops(self, dimension: int) -> int:
        """Return what `bind` costs for inputs of `dimension` numbers each, in floating point operations."""

    def refresh(self, scan: Scan, validation: Scan | None = None) -> None:
        """Re-select from last-layer gradients of the training set (and of the validation set)."""

    def propose(self) -> Batch:
        """Return the next batch, or the next candidates where `selection_due` is True afterwards."""

    def select(
        self,
        batch: Batch,
        losses: Tensor,
        probabilities: Tensor | None = None,
        features: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Batch | None:
        """Return the rows to train on, or None while accepted samples do not yet fill a batch.

        `losses` `(b,)`, `probabilities` `(b, M)`, `features` `(b, D)` and `targets` `(b,)` belong to `batch.indices`,
        row by row. A batch that is not due is returned unchanged.
        """

    def observe(
        self,
        indices: Tensor,
        losses: Tensor,
        probabilities: Tensor | None = None,
        features: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Credit what the training forward showed to the samples it came from.

        Under a mixing augmentation `indices`, `weights` and `targets` have shape `(b, donors)`: row r was mixed of
        these samples with these shares. Every donor is credited in proportion to its share.
        """

    def state_dict(self) -> StateDict:
        """Return tensors and JSON-able values from which `load_state_dict` continues bit-identically."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; raises `SettingError` for the state of another sampler."""

    def statistics(self) -> dict[str, Any]:
        """Return unique samples seen, mean effective batch size and realised inclusion (synchronises once)."""
