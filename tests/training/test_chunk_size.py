"""The chunk size of a run: found once, stored as a number, and the same in every later process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.objective import CrossEntropy
from subsetopt.training import preparation
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Silent
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config, read_toml
from subsetopt.training.splits import SplitName

SETTINGS = {"dataset": "digits", "max_iterations": 3, "handoff": "none", "subset_frac": 0.2}


def test_a_tuned_chunk_size_is_stored_as_a_number_and_not_sought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "tuned_chunk_size", lambda *_, **__: 48)
    done = train(make_config(SETTINGS, {"chunk_size": "tune", "output": tmp_path / "run"}), figure=False)
    assert done.directory is not None
    assert read_toml(done.directory / "config.toml")["chunk_size"] == 48

    def never(*_: object, **__: object) -> int:
        raise AssertionError("sought again")

    monkeypatch.setattr(preparation, "tuned_chunk_size", never)
    (done.directory / "result.json").unlink()
    again = resume_run(done.directory, figure=False)
    fixed = train(make_config(SETTINGS, {"chunk_size": 48}), keep=False)
    for model in (again.model, fixed.model):
        for a, b in zip(done.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_chunk_size_halved_for_want_of_memory_outlives_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for 100 samples: a run that is cut off after 2 iterations goes on with the size it had found."""
    total = CrossEntropy.total

    def limited(loss: CrossEntropy, outputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(outputs) > 100:
            raise torch.OutOfMemoryError("no room")
        return total(loss, outputs, *rest)

    monkeypatch.setattr(CrossEntropy, "total", limited)
    settings = {**SETTINGS, "max_iterations": 6, "checkpoint_seconds": 0.0}
    whole = train(make_config(settings), keep=False, splits=(), figure=False)

    class Cut(Silent):
        def update(self, record: Mapping[str, Any]) -> None:
            if record["iteration"] == 3:
                raise RuntimeError("cut off")

    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="cut off"):
        train(make_config(settings, {"output": run}), progress=Cut(), splits=(), figure=False)
    limits = json.loads((run / "state.json").read_text())["memory_limits"]
    assert limits == [{"chunk_size": 87, "graph_bytes": None}], "259 samples in three chunks"
    data, _, tight = prepare(make_config(settings))
    assert tight.model.objective(data, SplitName.SUBSET).chunk_size == 259
    tight.model.objective(data, SplitName.SUBSET).value(tight.model.flat.initial())
    stage = tight.model.objective(data.with_subset(torch.arange(200)), SplitName.SUBSET)
    assert stage.chunk_size == 67, "200 samples in chunks of at most 87"
    monkeypatch.setattr(CrossEntropy, "total", total)
    resumed = resume_run(run, splits=(), figure=False)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), "cut as before, though there is room now"


def test_another_number_of_ranks_takes_the_tightest_of_all_memory_limits() -> None:
    run = prepare(make_config({"model": "linear"})).run
    run.model.restore_memory_limits([{"chunk_size": 8, "graph_bytes": None}, {"chunk_size": 4, "graph_bytes": 100}])
    assert (run.model.memory_limits.chunk_size, run.model.memory_limits.graph_bytes) == (4, 100)
