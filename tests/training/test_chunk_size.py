"""The chunk size of a run: found once, stored as a number, and the same in every later process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subsetopt.training import workspace as workspace_module
from subsetopt.training.config import make_config, read_toml
from subsetopt.training.run import resume_run, train

SETTINGS = {"dataset": "digits", "max_iterations": 3, "handoff": "none", "subset_frac": 0.2}


def test_a_tuned_chunk_size_is_stored_as_a_number_and_not_sought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_module, "tuned_chunk_size", lambda *_, **__: 48)
    done = train(make_config(SETTINGS, {"chunk_size": "tune", "output": tmp_path / "run"}), figure=False)
    assert done.directory is not None
    assert read_toml(done.directory / "config.toml")["chunk_size"] == 48

    def never(*_: object, **__: object) -> int:
        raise AssertionError("sought again")

    monkeypatch.setattr(workspace_module, "tuned_chunk_size", never)
    (done.directory / "result.json").unlink()
    again = resume_run(done.directory, figure=False)
    fixed = train(make_config(SETTINGS, {"chunk_size": 48}), keep=False)
    for model in (again.model, fixed.model):
        for a, b in zip(done.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b)
