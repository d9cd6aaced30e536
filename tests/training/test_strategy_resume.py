"""Growing and several subsets, and draws by residual, killed at many moments, end bit for bit as if never killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.seeding import make_generator
from subsetopt.training.progress import Silent
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

COMMON: dict[str, Any] = {"subset_frac": 0.5, "max_iterations": 5, "checkpoint_seconds": 0, "handoff": "none"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "grow": {"grow": 2, "grow_start": 0.1, "noise_theta": 1.0},
    "grow-disjoint-validation": {"grow": 3, "grow_start": 0.1, "grow_mode": "disjoint", "grow_stop": "validation"},
    "grow-newton": {"grow": 3, "grow_start": 0.1, "solver": "newton-cg", "max_iterations": 3},
    "residual": {"subset_draw": "residual", "subset_frac": None, "draw_evaluations": 2, "max_iterations": 12},
    "residual-validation": {
        "subset_draw": "residual",
        "subset_frac": None,
        "draw_start": 0.0,
        "draw_evaluations": 3,
        "stop_at": "validation",
        "max_iterations": 12,
        "solver_args": {"preconditioner": "none"},
    },
    "residual-newton": {
        "subset_draw": "residual",
        "subset_frac": None,
        "draw_evaluations": 2,
        "solver": "newton-cg",
        "max_iterations": 6,
    },
    "subsets": {"subsets": 2, "subsets_then": "resolve", "max_epochs": 5.0},
}


class Killed(Exception):  # noqa: N818 (an event, not an error)
    pass


class KillAfter(Silent):
    """Raises after `left` notes of progress: phases begun, iterations recorded and phases ended."""

    def __init__(self, left: int) -> None:
        self.left = left

    def phase_started(self, *_: Any) -> None:
        self._count()

    def update(self, record: Mapping[str, Any]) -> None:
        self._count()

    def phase_ended(self, stop_reason: str) -> None:
        self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def classes() -> Dataset:
    generator = make_generator(1, "classes")
    x = torch.randn(300, 6, generator=generator)
    y = (x[:, :3] + torch.randn(300, 3, generator=generator)).argmax(1)
    return dataset_from_arrays(x, y, x[:30], y[:30])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_killed_run_ends_bit_identical(name: str, tmp_path: Path) -> None:
    settings = {**COMMON, **STRATEGIES[name]}
    counter = KillAfter(10_000)
    given: dict[str, Any] = {"model": torch.nn.Linear(6, 3), "dataset": classes(), "figure": False}
    whole = train(make_config(settings, {"output": tmp_path / "whole"}), progress=counter, **given)
    moments = 10_000 - counter.left
    for moment in range(1, moments, moments // 4):
        cut = tmp_path / f"cut{moment}"
        with pytest.raises(Killed):
            train(make_config(settings, {"output": cut}), progress=KillAfter(moment), **given)
        resumed = resume_run(cut, **given)
        assert (cut / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
        assert resumed.result["cost"]["by_purpose"] == whole.result["cost"]["by_purpose"]
        lines = [
            [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").open()]
            for run in ("whole", cut.name)
        ]
        assert lines[0] == lines[1]
