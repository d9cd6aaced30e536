"""L-BFGS on one fixed closure until it stops: what all adapters do at the end, or the beginning, of a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from subsetopt.errors import SettingError, UserError
from subsetopt.optim import LBFGS
from subsetopt.optim.settings import read_count

LOGGER = logging.getLogger("subsetopt")


@dataclass
class Finish:
    """At most `max_iterations` of L-BFGS; `settings` are further arguments of `subsetopt.optim.LBFGS`.

    `summary` has first_loss, loss, gradient_norm, stop_reason and iterations. `state_dict` holds tensors and plain
    numbers: a solve that was saved midway goes on exactly.
    """

    max_iterations: int = 200
    tolerance_grad: float = 1e-6
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    _optimizer: LBFGS | None = None
    _saved: Mapping[str, Any] | None = None
    _done: int = 0
    _first: float | None = None

    def __post_init__(self) -> None:
        read_count("max_iterations", self.max_iterations)
        for name in ("max_iter", "fixed_closure"):
            if name in self.settings:
                raise SettingError(name, self.settings[name], "is set by the adapter", "use max_iterations")
        self._make([nn.Parameter(torch.zeros(1))])  # settings are read before any training

    def run(
        self, model: nn.Module, closure: Callable[[], Tensor], each: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Minimise `closure` over the trainable parameters of `model`, calling `each` with every iteration's record."""
        self._optimizer = optimizer = self._make([p for p in model.parameters() if p.requires_grad])
        if self._saved is not None:
            optimizer.load_state_dict(self._saved)
            self._saved = None
        while self._done < self.max_iterations:
            loss = optimizer.step(closure)
            self._first = float(loss) if self._first is None else self._first
            self._done += 1
            record = {"iteration": self._done, "loss": float(loss), "gradient_norm": optimizer.gradient_norm}
            LOGGER.debug("L-BFGS iteration %(iteration)d: loss %(loss).6g, max|g| %(gradient_norm).2g", record)
            if each is not None:
                each(record)
            if optimizer.stop_reason is not None:
                break
        reason = optimizer.stop_reason or "max_iterations"
        final = float(closure())  # a step returns the loss where it began
        optimizer.zero_grad()
        self.summary = {
            "first_loss": self._first,
            "loss": final,
            "gradient_norm": optimizer.gradient_norm,
            "stop_reason": str(reason),
            "iterations": self._done,
        }
        LOGGER.info(
            "L-BFGS: %(stop_reason)s after %(iterations)d iterations, loss %(loss).6g, max|g| %(gradient_norm).2g",
            self.summary,
        )
        return self.summary

    def state_dict(self) -> dict[str, Any]:
        """Return where the solve is."""
        optimizer = self._saved if self._optimizer is None else self._optimizer.state_dict()
        return {"optimizer": optimizer, "done": self._done, "first": self._first, "summary": self.summary}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._optimizer, self._saved = None, state["optimizer"]
        self._done, self._first, self.summary = int(state["done"]), state["first"], state["summary"]

    def _make(self, parameters: Iterable[Tensor]) -> LBFGS:
        given = {"tolerance_grad": self.tolerance_grad, "process_group": "default", **self.settings}
        return LBFGS(parameters, max_iter=1, fixed_closure=True, **given)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have every part of `model` in evaluation mode, and afterwards in the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Whole:
    """Batches of `loader` as {"batch": ...}, so that a loss of (model, batch) gets each as it is."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return ({"batch": batch} for batch in self._loader)


def all_rows(loader: Any, rank: int = 0, ranks: int = 1, fraction: float | None = None, seed: int = 0) -> Any:
    """Return a loader of the same batches in a fixed order, without shuffling, nothing dropped or repeated.

    Each of several ranks gets rows rank, rank + ranks, ... `fraction` takes a random part of all rows, the same one
    for one seed. Raises `UserError` for data that have no order.
    """
    data: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise UserError(
            "train_dataloader: its rows cannot be numbered (no map-style data set), so that L-BFGS could not see the "
            "same ones in every iteration; give a DataLoader of a map-style data set"
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        raise UserError("train_dataloader: batching is off (batch_size=None); give a batch size")
    rows = torch.arange(len(data))
    if fraction is not None:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        rows = order[: max(1, round(fraction * len(rows)))].sort().values
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 256
    part: Subset[Any] = Subset(data, rows[rank::ranks].tolist())
    return DataLoader(part, batch_size=size, collate_fn=loader.collate_fn, num_workers=loader.num_workers)
