"""What all samplers share: a generator of their own, a queue of drawn rows, visit counts, and exact saving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.samplers.draws import self_normalised
from subsetopt.samplers.protocol import Batch, Granularity, Quantity, Scan, Seen, StateDict
from subsetopt.samplers.visits import Visits
from subsetopt.seeding import make_generator


class QueueSampler:
    """Draws a block of rows (usually an epoch), hands it out batch by batch, and draws the next when it is used up.

    The batches of a block are as few as `rows_per_proposal` allows, and of equal size but for one row; `drop_last` asks
    for whole batches instead.

    A concrete sampler says how a block is drawn (`draw_block`), names in `persistent` the attributes that are its
    memory, and overrides `keep`, `learn`, `bind` or `refresh` where it learns. Settings are a frozen dataclass
    `Settings` whose construction validates them.
    """

    name: str = ""
    Settings: ClassVar[type[Any]]
    granularity: Granularity = "epoch"
    needs_selection_forward: bool = False
    needs: frozenset[Quantity] = frozenset()
    does_without: frozenset[Quantity] = frozenset()  # of these, what a stand-in is known for
    needs_data: bool = False
    needs_scan: bool = False
    needs_validation_scan: bool = False
    scan_period: int | None = None
    unbiased: bool = False
    persistent: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, n_samples: int, batch_size: int, seed: int, device: torch.device, settings: Any, drop_last: bool = False
    ) -> None:
        self.n_samples, self.batch_size, self.seed, self.device = n_samples, batch_size, seed, device
        self.settings, self.drop_last = settings, drop_last
        self.generator = make_generator(seed, "sampler")
        self.rows_per_proposal = batch_size
        self.epoch_rows = n_samples
        self.blocks_per_epoch = 1
        self.normalise_batches = False
        self.selection_due = False
        self._order = torch.empty(0, dtype=torch.int64, device=device)
        self._order_weights: Tensor | None = None
        self._position = 0
        self._blocks = 0
        self._visits = Visits(n_samples, device)

    def draw_block(self) -> Batch:
        """Return the rows (and weights) of the next block, in the order in which they are to be proposed."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        """Zero-based index of the epoch that the latest proposal belongs to."""
        return max(self._blocks - 1, 0) // self.blocks_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Proposals per epoch."""
        return self._steps(self.epoch_rows)

    def _steps(self, rows: int) -> int:
        batches = rows / self.rows_per_proposal
        return max(1, math.floor(batches) if self.drop_last else math.ceil(batches))

    @property
    def opening(self) -> tuple[int, bool]:
        """Rows of the first proposal, and whether they are candidates; asked before anything is drawn."""
        rows = self.epoch_rows if self.drop_last else math.ceil(self.epoch_rows / self.steps_per_epoch)
        return min(rows, self.rows_per_proposal), self._wants_selection()

    @property
    def scan_due(self) -> bool:
        """Whether the loop is to call `refresh` before the next `propose`."""
        return False

    @property
    def _exhausted(self) -> bool:
        left = len(self._order) - self._position
        # A block without a single full batch is proposed all the same: a coreset may turn out smaller than a batch.
        return left == 0 or (self.drop_last and self._position > 0 and left < self.rows_per_proposal)

    def propose(self) -> Batch:
        """Return the next batch; candidates where `selection_due` is True afterwards."""
        while self._exhausted:
            self._begin_block()
        batch = self._take(self._next_rows())
        self.selection_due = self._wants_selection()
        if not self.selection_due:
            self._visits.record(batch)
        self._visits.candidates += len(batch.indices)
        return batch

    def select(
        self,
        batch: Batch,
        losses: Tensor,
        probabilities: Tensor | None = None,
        features: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Batch | None:
        """Return the rows of a candidate batch to train on, or None while they do not fill a batch."""
        if not self.selection_due:
            return batch
        self.selection_due = False
        selected = self.keep(batch, Seen(batch.indices, losses.detach(), probabilities, features, targets))
        if selected is not None:
            self._visits.record(selected)
        return selected

    def observe(
        self,
        indices: Tensor,
        losses: Tensor,
        probabilities: Tensor | None = None,
        features: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Credit what a training forward showed; see `Seen` for shapes, and `learn` for what a sampler does with it."""
        self.learn(Seen(indices, losses, probabilities, features, targets, weights))

    def learn(self, seen: Seen) -> None:
        """Take in what a training forward showed; a sampler without memory ignores it."""

    def keep(self, batch: Batch, seen: Seen) -> Batch | None:
        """Return which rows of the candidates `batch` to train on, None while they do not fill a batch."""
        raise NotImplementedError

    def bind(self, inputs: Tensor) -> None:
        """Look once at the training inputs; a sampler that needs none ignores them."""

    def bind_flops(self, dimension: int) -> int:
        """Return what `bind` costs; nothing where it does no arithmetic."""
        return 0

    def refresh(self, scan: Scan, validation: Scan | None = None) -> None:
        """Re-select from last-layer gradients; a sampler that needs no scans ignores them."""

    def statistics(self) -> dict[str, Any]:
        """Return unique samples seen, mean effective batch share and realised inclusion (one synchronisation)."""
        proposed = max(self._blocks - 1, 0) + self._position / max(len(self._order), 1) if self._blocks else 0.0
        summary = self._visits.summary(proposed / self.blocks_per_epoch)
        if self.needs_selection_forward:
            summary["keep_rate"] = self._visits.trained / max(self._visits.candidates, 1)
        return summary

    def state_dict(self) -> StateDict:
        """Return copies of the generator, the queue, the visit counts and the sampler's own memory."""
        state: StateDict = {"name": self.name, "n_samples": self.n_samples, "batch_size": self.batch_size}
        state["generator"] = self.generator.get_state()
        for name in self._persistent():
            value = getattr(self, name)
            state[name.strip("_")] = value.clone() if isinstance(value, Tensor) else value
        for name, value in vars(self._visits).items():
            state[f"visits.{name}"] = value.clone() if isinstance(value, Tensor) else value
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; raises `SettingError` where it belongs to another sampler."""
        for key in ("name", "n_samples", "batch_size"):
            if state.get(key) != getattr(self, key):
                remedy = f"this sampler has {getattr(self, key)!r}; resume with the settings of the saved run"
                raise SettingError(f"sampler {key}", state.get(key), "is not what was saved", remedy)
        self.generator.set_state(state["generator"].cpu())
        for name in self._persistent():
            setattr(self, name, self._placed(state[name.strip("_")]))
        for name in vars(self._visits):
            setattr(self._visits, name, self._placed(state[f"visits.{name}"]))

    def _persistent(self) -> tuple[str, ...]:
        shared = ("_order", "_order_weights", "_position", "_blocks", "epoch_rows", "selection_due")
        return (*shared, *self.persistent)

    def _placed(self, value: Any) -> Any:
        return value.to(self.device, copy=True) if isinstance(value, Tensor) else value

    def _begin_block(self) -> None:
        block = self.draw_block()
        self._order, self._order_weights = block.indices, block.weights
        self._position = 0
        self._blocks += 1

    def _next_rows(self) -> int:
        """Return the rows of the next batch: what is left of the block, shared evenly by the fewest batches.

        129 rows in batches of at most 64 are 43, 43, 43, never 64, 64, 1: a step on one row is as long as one on 64.
        """
        if self.drop_last:
            return self.rows_per_proposal
        left = len(self._order) - self._position
        return math.ceil(left / math.ceil(left / self.rows_per_proposal))

    def _take(self, rows: int) -> Batch:
        window = slice(self._position, self._position + rows)
        self._position = min(window.stop, len(self._order))
        weights = None if self._order_weights is None else self._order_weights[window]
        batch = Batch(self._order[window], weights)
        return self_normalised(batch) if self.normalise_batches else batch

    def _wants_selection(self) -> bool:
        return self.needs_selection_forward
