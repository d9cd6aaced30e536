"""All arithmetic is charged: for everything in the registries, the ledger against the operations that were made.

Reference: the formulas of torch's FlopCounterMode around the phases of a run, with those of `objective/flops.py` for
what it does not know (products of vectors, decompositions), plus the operations of numpy and scipy, as stated where
they are made. What is counted only to find a price is no work of the method. What is registered anew is tested, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

import subsetopt.objective.kfac.price
import subsetopt.training.phases.first_order.mini_batch
from subsetopt.data import Dataset, dataset_from_arrays, load_dataset
from subsetopt.errors import SettingError
from subsetopt.models import build_model
from subsetopt.objective.flops import FlopCounter, count_flops
from subsetopt.objective.tally import tallied
from subsetopt.samplers import SAMPLERS
from subsetopt.solvers import SOLVERS
from subsetopt.training.ledger import Ledger
from subsetopt.training.loop import Loop
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Silent
from subsetopt.training.settings.run import make_config

TOLERANCE = 0.05
PRICING = (subsetopt.objective.kfac.price, subsetopt.training.phases.first_order.mini_batch)

SOLVE = {"subset_frac": 0.2, "max_iterations": 8, "handoff": "none"}
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    **{f"solver:{entry.name}": {**SOLVE, "solver": entry.name} for entry in SOLVERS},
    **{f"optimizer:{name}": {"solver": "none", "handoff": name, "handoff_epochs": 2} for name in OPTIMIZERS.names},
    **{f"sampler:{entry.name}": {"solver": "none", "handoff": entry.name, "handoff_epochs": 3} for entry in SAMPLERS},
    **{f"strategy:{name}": {"solver": name, "solver_epochs": 5, "handoff": "none"} for name in METHODS.names},
    "lbfgs with many pairs": {**SOLVE, "solver": "lbfgs", "max_iterations": 40},
    "lbfgs from K-FAC": {**SOLVE, "solver": "lbfgs", "solver_args": {"preconditioner": "kfac"}},
    "lbfgs from a diagonal": {**SOLVE, "solver": "lbfgs", "solver_args": {"preconditioner": "diagonal"}},
    "newton-cg with K-FAC": {**SOLVE, "solver": "newton-cg", "solver_args": {"preconditioner": "kfac"}},
    "newton-cg on parts": {**SOLVE, "solver": "newton-cg", "solver_args": {"sample_share": 0.5, "curvature": "ggn"}},
    "exact kernel regression": {"solver": "none", "handoff": "nw-sketch", "handoff_epochs": 40}
    | {"handoff_args": {"estimator": "exact"}},
    "growing subsets": {"solver": "lbfgs", "grow_start": 0.2, "max_iterations": 4},
    "several subsets": {"solver": "lbfgs", "subset_frac": 0.2, "subsets": 3, "max_iterations": 4, "handoff": "none"},
    "until held-out loss rises": {**SOLVE, "solver": "ncg", "stop_at": "validation"},
    "until noise": {**SOLVE, "solver": "lbfgs", "stop_at": "noise"},
    "full set after": {"solver": "lbfgs", "subset_frac": 0.2, "max_iterations": 4, "handoff": "full"},
}
OF_ALL_PAIRS = {"solver:scipy:BFGS"}  # P^2 numbers: for the smallest model alone


class Measured:
    """Operations made and charged, in epoch-equivalents; `known` are those that torch's own counter knows."""

    def __init__(self, made: float, known: float, charged: float, ledger: Ledger) -> None:
        self.made, self.known, self.charged, self.ledger = made, known, charged, ledger


class BothCounters(FlopCounter):
    """Counts beside what torch's own formulas say of the same operations: one counter costs half of two."""

    known = 0

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if (formula := flop_registry.get(func_packet)) is not None:
            self.known += formula(*args, **kwargs, out_val=out)
        return super()._count_flops(func_packet, out, args, kwargs)


def measure(settings: Mapping[str, Any], dataset: Dataset, model: nn.Module) -> Measured:
    """Run the phases of a configuration under a counter of operations."""
    prepared = prepare(make_config({"track_validation": None, **settings}), model, dataset)
    phases = build_phases(*prepared, may_idle=True)
    ledger = prepared.budget.ledger
    before = ledger.cost + ledger.evaluation_cost
    with pricing_set_aside() as aside, tallied() as tally, BothCounters() as counter:
        loop = Loop(prepared, phases, None, Silent())
        loop.run(loop.start())
    unit = ledger.full_size / ledger.prices["flops"]
    made = counter.get_total_flops() - sum(aside) + tally.host
    known = counter.known - sum(aside)
    return Measured(made / unit, known / unit, ledger.cost + ledger.evaluation_cost - before, ledger)


@contextmanager
def pricing_set_aside() -> Iterator[list[int]]:
    """Give the operations that are made only to know their number."""
    aside: list[int] = []

    def counted(call: Callable[[], object]) -> int:
        aside.append(count_flops(call))
        return aside[-1]

    with pytest.MonkeyPatch.context() as patch:
        for module in PRICING:
            patch.setattr(module, "count_flops", counted)
        yield aside


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Return 600 of them: what is counted per sample is the same for all."""
    train = load_dataset("digits", seed=0).train
    return dataset_from_arrays(train.inputs[:600], train.targets[:600], normalize="standard")


def made_up(n: int, shape: tuple[int, ...]) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)
    return dataset_from_arrays(pixels, torch.arange(n) % 10, normalize="standard")


def check(settings: Mapping[str, Any], dataset: Dataset, model: nn.Module) -> None:
    try:
        found = measure(settings, dataset, model)
    except SettingError as error:
        if "pip install" not in f"{error}":
            raise
        pytest.skip(f"an extra is not installed: {error}")
    assert found.charged > 0
    assert found.made / found.charged == pytest.approx(1, abs=TOLERANCE), found.ledger.by_purpose()
    assert found.known <= found.made


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_every_method_is_charged_for_what_it_computes_on_digits(name: str, digits: Dataset) -> None:
    small = {"widths": (2,)} if name in OF_ALL_PAIRS else {}
    check(METHOD_SETTINGS[name], digits, build_model("mlp", in_shape=digits.in_shape, n_outputs=10, **small))


def briefly(name: str) -> dict[str, Any]:
    """Return the settings with few steps, for data of which the tests need no more than their shape."""
    settings = METHOD_SETTINGS[name]
    limits = {key: min(value, 3) for key, value in settings.items() if key == "max_iterations"}
    limits |= {key: 1.0 for key in settings if key == "handoff_epochs"}
    return {**settings, **limits, "subset_frac": 0.3 if "subsets" in settings else 0.8}


@pytest.mark.parametrize("name", [name for name in METHOD_SETTINGS if name not in OF_ALL_PAIRS])
def test_every_method_is_charged_for_what_it_computes_with_batch_norm(name: str) -> None:
    """A ResNet of 8 layers: all chunks are normalised by their own statistics, and two rows are the least."""
    model = build_model("resnet", in_shape=(3, 6, 6), n_outputs=10, depth=8, width=4, norm="batch", seed=0)
    check(briefly(name), made_up(200, (3, 6, 6)), model)


@pytest.mark.parametrize("name", [name for name in METHOD_SETTINGS if name not in OF_ALL_PAIRS])
def test_every_method_is_charged_for_what_it_computes_in_a_cnn(name: str) -> None:
    """The CNN for MNIST, 28 by 28. The checks of new objectives, on 16 rows, are charged; the counter misses them."""
    model = build_model("cnn", in_shape=(1, 28, 28), n_outputs=10, seed=0)
    check(briefly(name), made_up(400, (1, 28, 28)), model)
