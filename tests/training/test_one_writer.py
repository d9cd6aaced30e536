"""Two processes never write one run directory: the second is told so in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from subsetopt.errors import RunDirectoryError
from subsetopt.training import make_config, train
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import CONFIG, RunDirectory

SMALL = {"model": "linear", "max_iterations": 3, "handoff": "none"}


def test_a_run_in_use_is_not_resumed(tmp_path: Path) -> None:
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with (
        RunDirectory.open(tmp_path / "a").sole_user(),
        pytest.raises(RunDirectoryError, match="another process works there"),
    ):
        resume_run(tmp_path / "a", figure=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert resume_run(tmp_path / "a", figure=False).result["status"] == "done"


def test_a_run_keeps_its_directory_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is evaluated at the end; at that time nobody else gets in."""
    from subsetopt.training import finishing as module

    refused = []

    def evaluate(*arguments: object) -> dict[str, object]:
        with pytest.raises(RunDirectoryError), RunDirectory.open(tmp_path / "a").sole_user():
            pass
        refused.append(True)
        return original(*arguments)  # type: ignore[arg-type]  # passed on as given

    original = module.assemble_result
    monkeypatch.setattr(module, "assemble_result", evaluate)
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    assert refused and (tmp_path / "a" / CONFIG).is_file()
    with RunDirectory.open(tmp_path / "a").sole_user():
        pass
