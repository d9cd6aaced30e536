"""A method is added in one file: each file below, dropped into its package, is found by all that lists or runs methods.

Reference: the file itself; nothing else of the package is touched. Entry points are those of a made-up distribution.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from subsetopt_cli.main import run

from subsetopt.compare.knobs import knob_of
from subsetopt.compare.methods import parse_method
from subsetopt.data import DATASETS
from subsetopt.data.batch_augmentation import AUGMENTATIONS
from subsetopt.errors import SettingError
from subsetopt.guide.tables import table
from subsetopt.models import MODELS
from subsetopt.plan.predictions import strategies
from subsetopt.registry import Registry
from subsetopt.samplers import SAMPLERS, make_sampler
from subsetopt.solvers import SOLVERS, make_solver, minimize
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.run import RunConfig, make_config

FILES = {
    "solvers": '''"""Barzilai-Borwein: steepest descent whose step is s·s / s·y of the last step (1988).

## Settings
- `first` (0.01): length of the first step.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from subsetopt.facts import Knob, PlannedStrategy
from subsetopt.saving import join, split
from subsetopt.settings import setting
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.iterate import Iterate, StopSettings, advance, evaluate, start_fields

@dataclass(kw_only=True)
class BBState(Iterate):
    step: float

@SOLVERS.register("bb", "Barzilai-Borwein steps", knob=Knob("first", 0.01),
                  plan=(PlannedStrategy("bb", "full batch", "--handoff-solver bb", ("--handoff-epochs",)),))
@dataclass(frozen=True, kw_only=True)
class BarzilaiBorwein(StopSettings):
    name: ClassVar[str] = "bb"
    first: float = setting(0.01, above=0)

    def init(self, objective, w):
        return BBState(**start_fields(objective, w), step=self.first)

    def step(self, objective, state):
        s = -state.step * state.gradient
        trial = evaluate(objective, state.w + s)
        y = trial.gradient - state.gradient
        curvature = float(s @ y)
        length = float(s @ s) / curvature if curvature > 0 else state.step
        return advance(state, trial, state.evaluations + 1, step=length)

    def save(self, state):
        return split(state)

    def restore(self, objective, tensors, numbers):
        return join(BBState, tensors, numbers, identity=objective.identity)
''',
    "samplers": '''"""Every second row."""
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.factory import register
from subsetopt.samplers.methods.rs2 import RepeatedRandomSubset

@register("fourteenth", "one sampler more")
class Fourteenth(RepeatedRandomSubset):
    """rs2 by another name."""
''',
    "optimizers": '''"""Sign descent."""
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS, FirstOrderMethod

@OPTIMIZERS.register("rprop", "signs alone")
class Signs(FirstOrderMethod):
    rate = 0.25

    @classmethod
    def make(cls, config, flat, w, lr, weight_decay):
        import torch
        return torch.optim.Rprop([w], lr)
''',
    "strategies": '''"""A stream at rest after every step."""
from subsetopt.facts import Knob
from subsetopt.training.phases.methods import METHODS, Strategy

@METHODS.register("rest-stream", "no momentum", knob=Knob("rate", 0.5))
class RestStream(Strategy):
    kind = "stream"
    epochs = 1.5

    @classmethod
    def phase(cls, config, data, budget, run, index):
        from subsetopt.training.phases.kfac_stream.phase import StreamPhase
        settings = {"momentum": 0.0, **config.settings}
        return StreamPhase(config.model_copy(update={"settings": settings}), data, budget, run, index)
''',
    "datasets": '''"""Two clusters."""
import numpy as np
from subsetopt.data.catalog import DATASETS, RawData, RawSplit

@DATASETS.register("clusters", "two clusters of points")
def read(query):
    y = np.arange(80) % 2
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32) + 2 * y[:, None].astype(np.float32)
    rows = np.arange(80)
    return RawData(RawSplit(x[:60], y[:60], rows[:60]), RawSplit(x[60:], y[60:], rows[60:]), n_classes=2)
''',
    "models": '''"""Bias alone."""
import math
from torch import nn
from subsetopt.models.build import MODELS

@MODELS.register("two-layers", "two linear layers")
def two_layers(in_shape: tuple[int, ...], n_outputs: int, width: int = 3) -> nn.Module:
    """Return a linear bottleneck of `width`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), width), nn.Linear(width, n_outputs))
''',
    "augmentations": '''"""Noise."""
from subsetopt.data.batch_augmentation import AUGMENTATIONS, Augmented

@AUGMENTATIONS.register("noisy", "as they are")
class Noisy:
    def __call__(self, images, preprocess, generator):
        return Augmented(preprocess(images))
''',
}
NAMES = {
    "solvers": "bb",
    "samplers": "fourteenth",
    "optimizers": "rprop",
    "strategies": "rest-stream",
    "datasets": "clusters",
    "models": "two-layers",
    "augmentations": "noisy",
}
REGISTRIES: dict[str, Registry[Any]] = {
    "solvers": SOLVERS,
    "samplers": SAMPLERS,
    "optimizers": OPTIMIZERS,
    "strategies": METHODS,
    "datasets": DATASETS,
    "models": MODELS,
    "augmentations": AUGMENTATIONS,
}
RUN = ("--validation-fraction", "0.2", "--subset-frac", "0.3", "--max-iterations", "3", "--quiet", "--json")


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every registry look for its methods again, and forget afterwards what it has found."""
    for registry in REGISTRIES.values():
        list(registry)
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_discovered", False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "dropped_in" in name:
            del sys.modules[name]


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, afresh: None) -> Callable[[str], list[Path]]:
    """Return `drop(kind) -> files written`: one file in a folder that is made a part of the kind's package."""

    def call(kind: str) -> list[Path]:
        folder = tmp_path / f"more-{kind}"
        package = importlib.import_module(REGISTRIES[kind]._package)
        file = folder / (f"dropped_in_{kind}/__init__.py" if kind == "strategies" else f"dropped_in_{kind}.py")
        file.parent.mkdir(parents=True)
        file.write_text(FILES[kind], encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        return [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".py"]

    return call


@pytest.mark.parametrize("kind", FILES)
def test_one_file_is_found_by_list_its_card_and_the_guide(
    kind: str, drop: Callable[[str], list[Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(drop(kind)) == 1
    assert run(["list", kind, "--json"]) == 0
    assert NAMES[kind] in {entry["name"] for entry in json.loads(capfd.readouterr().out)}
    assert run(["list", kind, NAMES[kind], "--json"]) == 0
    card = json.loads(capfd.readouterr().out)
    assert FILES[kind].split('"""')[1].strip() in card["card"]
    assert f"| `{NAMES[kind]}` |" in table(kind)
    assert NAMES[kind] in REGISTRIES[kind].names, "what generic tests are parametrised by"


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("solvers", ("--solver", "bb", "--solver-arg", "first=0.02", "--handoff", "none")),
        ("samplers", ("--solver", "none", "--handoff", "fourteenth", "--handoff-epochs", "0.5")),
        ("optimizers", ("--warmup", "rprop", "--handoff", "rprop", "--handoff-epochs", "0.5")),
        ("strategies", ("--solver", "rest-stream", "--handoff", "none")),
        ("datasets", ("--dataset", "clusters", "--handoff", "none")),
        ("models", ("--model", "two-layers", "--model-arg", "width=2", "--handoff", "none")),
        ("augmentations", ("--handoff-augmentation", "noisy", "--handoff-epochs", "0.5")),
    ],
)
def test_one_file_is_trained_with(
    kind: str,
    flags: tuple[str, ...],
    drop: Callable[[str], list[Path]],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    drop(kind)
    assert run(["train", *flags, *RUN, "--output", str(tmp_path / "run")]) == 0, capfd.readouterr().err
    result = json.loads(capfd.readouterr().out)
    named = [phase["method"] for phase in result["phases"]] + [phase.get("sampler") for phase in result["phases"]]
    assert NAMES[kind] in [*named, result["dataset"]["name"], result["model"]["name"], flags[1]]
    assert result["cost"]["epoch_equivalents"] > 0


@pytest.mark.parametrize(
    ("kind", "method", "knob", "centre"),
    [
        ("solvers", "bb", "first", 0.01),
        ("samplers", "lbfgs@0.1+fourteenth@0.2", "lr", 0.05),
        ("optimizers", "srs@0.1/rprop", "lr", 0.25),
        ("optimizers", "rprop", "lr", 0.25),
        ("strategies", "rest-stream", "rate", 0.5),
        ("strategies", "lbfgs@0.1+rest-stream", "solve_share", 0.5),
    ],
)
def test_one_file_is_compared_by_its_own_knob(
    kind: str, method: str, knob: str, centre: float, drop: Callable[[str], list[Path]]
) -> None:
    with pytest.raises(SettingError):
        parse_method(method)
    drop(kind)
    for registry in REGISTRIES.values():
        registry._discovered = False
    config = make_config({"max_iterations": None}, parse_method(method).settings)
    tuned = knob_of(config.phases(), 0.5)
    assert tuned is not None and (tuned.name, tuned.centre) == (knob, centre)


def test_the_solver_solves_and_the_sampler_samples(drop: Callable[[str], list[Path]]) -> None:
    """Reference: the minimum of a quadratic is known."""
    import torch

    drop("solvers"), drop("samplers")
    curvature = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    solved = minimize(lambda w: 0.5 * (curvature * (w - 1.0) ** 2).sum(), torch.zeros(3, dtype=torch.float64), "bb")
    assert solved.converged and torch.allclose(solved.x, torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert len(make_sampler("fourteenth", 40, 4, fraction=0.1).propose().indices) == 4
    assert "bb" in {way.name for way in strategies()}


def test_a_strategy_has_its_own_default_cost_and_takes_no_grown_subsets(drop: Callable[[str], list[Path]]) -> None:
    drop("strategies")
    assert [phase.epochs for phase in RunConfig(solver="rest-stream", handoff="none").phases()] == [1.5]
    with pytest.raises(SettingError, match="needs a full-batch solver"):
        make_config({"solver": "rest-stream", "grow": 2.0})


GROUPS = {"strategies": "subsetopt.methods"}


@pytest.fixture
def distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, afresh: None
) -> Callable[[str, dict[str, str]], None]:
    """Return `distribution(group, points)`: a distribution "mine" on the path, with modules of `FILES` in it."""

    def call(group: str, points: dict[str, str]) -> None:
        folder = tmp_path / "site"
        info = folder / "mine-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for kind, text in FILES.items():
            (folder / f"dropped_in_{kind}.py").write_text(text, encoding="utf-8")
        (folder / "dropped_in_broken.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
        (folder / "dropped_in_exit.py").write_text("import sys\nsys.exit('never\\ntwice')\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))

    return call


@pytest.mark.parametrize("kind", FILES)
def test_entry_points_of_another_distribution_are_found(kind: str, distribution: Any) -> None:
    distribution(GROUPS.get(kind, f"subsetopt.{kind}"), {"any": f"dropped_in_{kind}"})
    assert NAMES[kind] in REGISTRIES[kind] and "any" not in REGISTRIES[kind]


def test_an_entry_point_may_name_an_object(distribution: Any) -> None:
    distribution("subsetopt.models", {"mine": "torch.nn:Identity", "other": "dropped_in_models:two_layers"})
    assert {"mine", "two-layers"} <= set(MODELS.names) and "other" not in MODELS, (
        "one that registers itself has its name"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("odd", "dropped_in_broken"),
        ("odd", "dropped_in_exit"),
        ("odd", "no.such.module"),
        ("odd", "json:no_such_attribute"),
        ("odd", "math:pi"),
        ("odd", "not a!"),
        ("lbfgs", "json:dumps"),
    ],
)
def test_a_broken_entry_point_is_one_line_and_left_out(
    name: str, value: str, distribution: Any, caplog: pytest.LogCaptureFixture
) -> None:
    distribution("subsetopt.solvers", {name: value})
    assert make_solver("lbfgs").name == "lbfgs" and "odd" not in SOLVERS
    (record,) = caplog.records
    assert f"{name!r} of mine is left out" in record.getMessage() and "\n" not in record.getMessage()


def test_metadata_that_cannot_be_read_leaves_the_others(
    distribution: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distribution("subsetopt.solvers", {"any": "dropped_in_solvers"})
    other = tmp_path / "site" / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    (other / "entry_points.txt").write_bytes(b"[subsetopt.solvers]\nodd = \xff\xfe\n")
    assert "bb" in SOLVERS
    (record,) = caplog.records
    assert "other" in record.getMessage() and "\n" not in record.getMessage()


PLAN = '''"""Solve twice."""
from subsetopt.training.settings.plans import PLANS, SubsetPlan

@PLANS.register("again", "the same solve twice")
class Again(SubsetPlan):
    @classmethod
    def chosen(cls, config):
        return config.subset_size == 77

    @classmethod
    def phases(cls, config, solve):
        return [solve, solve]
'''


def test_a_plan_for_subsets_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subsetopt.training.settings.plans as package

    list(package.PLANS)
    monkeypatch.setattr(package.PLANS, "_entries", dict(package.PLANS._entries))
    monkeypatch.setattr(package.PLANS, "_discovered", False)
    (tmp_path / "dropped_in_plan.py").write_text(PLAN, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "| `again` |" in table("strategies")
    assert [phase.role for phase in make_config({"subset_size": 77, "handoff": "none"}).phases()] == ["solve", "solve"]
    assert len(make_config({"subset_size": 78, "handoff": "none"}).phases()) == 1
    sys.modules.pop(f"{package.__name__}.dropped_in_plan", None)
