"""What a user is told to do next with a run exists where he works: a call in Python, a command on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from subsetopt.errors import RunDirectoryError, UserError
from subsetopt.training.settings.run import make_config
from subsetopt.training.trainer import SubsetTrainer

SMALL: dict[str, Any] = {"subset_frac": 0.2, "handoff": "none", "max_iterations": 2}
X, Y = torch.linspace(-1, 1, 240).view(80, 3), torch.arange(80) % 2


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def told(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_run_that_is_there_already_is_resumed_by_the_call_that_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    SubsetTrainer(net(), (X, Y), output=run, **SMALL).fit()
    text = told(lambda: SubsetTrainer(net(), (X, Y), output=run, **SMALL).fit())
    call = f"SubsetTrainer.resume({str(run)!r}, model=..., dataset=...)"
    assert text.endswith(call)
    made = call.replace("model=...", "model=net()").replace("dataset=...", "dataset=(X, Y)")
    resumed = eval(made, {"SubsetTrainer": SubsetTrainer, "net": net, "X": X, "Y": Y})
    assert resumed.result["solve"]["iterations"] == 2


def test_objects_that_are_missing_are_named_together(tmp_path: Path) -> None:
    run = tmp_path / "run"
    SubsetTrainer(net(), (X, Y), output=run, **SMALL).fit()
    whole = "in Python, as in SubsetTrainer.resume(path, model=..., dataset=...)"
    both, one = told(lambda: SubsetTrainer.resume(run)), told(lambda: SubsetTrainer.resume(run, model=net()))
    assert f"its model and dataset were Python objects; give model and dataset {whole}" in both
    assert f"its dataset was a Python object; give dataset {whole}" in one
    assert "SubsetTrainer.load(path, model=...)" in told(lambda: SubsetTrainer.load(run))


def test_names_need_no_objects_and_a_complete_run_offers_a_setting(tmp_path: Path) -> None:
    run = tmp_path / "run"
    SubsetTrainer("linear", "digits", output=run, **SMALL).fit()
    text = told(lambda: SubsetTrainer("linear", "digits", output=run, **SMALL).fit())
    assert text.endswith(f"SubsetTrainer.resume({str(run)!r})")
    text = told(lambda: SubsetTrainer.resume(run, max_iterations=2))
    assert text.endswith("a new run from its model: init_from=RUN")
    assert make_config({**SMALL, "init_from": run}).init_from == run


def test_a_directory_without_settings_offers_no_way_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("not = [toml")
    with pytest.raises(RunDirectoryError, match=r"SubsetTrainer\.resume\('[^']*'\)$"):
        SubsetTrainer(net(), (X, Y), output=tmp_path / "run", **SMALL).fit()
