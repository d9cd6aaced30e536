"""A checkpoint and a model file are taken by the run that wrote them, and refused in one line by any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from subsetopt.analysis.verification import verify_run
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import RunDirectoryError, SettingError
from subsetopt.training import make_config, train
from subsetopt.training.checks.identity import FREE, OtherRunError, _check_settings
from subsetopt.training.evaluation import evaluate_run
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, MODEL, RESULT, RunDirectory

SETTINGS: dict[str, Any] = {"subset_size": 40, "max_iterations": 3, "handoff": "none", "checkpoint_seconds": 0}


def data(shift: float = 0.0) -> Dataset:
    return dataset_from_arrays(torch.linspace(-1, 1 + shift, 320).reshape(80, 4).cos(), torch.arange(80) % 2)


def net(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 3), activation(), nn.Linear(3, 2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(SETTINGS, {"output": path}), model=net(), dataset=data(), figure=False)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("use", [resume_run, verify_run])
def test_the_data_must_be_the_runs_own(run: Path, use: Callable[..., Any]) -> None:
    with pytest.raises(RunDirectoryError, match="does not fit: the data are not those of the run; restore the data"):
        use(run, model=net(), dataset=data(1e-3))


def test_evaluation_says_that_the_data_are_others(run: Path) -> None:
    notes: list[str] = []
    evaluate_run(run, model=net(), dataset=data(), notes=notes)
    assert notes == []
    evaluate_run(run, model=net(), dataset=data(1e-3), notes=notes)
    assert "data are not those of the run" in notes[0]


@pytest.mark.parametrize("use", [resume_run, evaluate_run, verify_run])
def test_each_setting_and_model_must_be_the_runs_own(run: Path, use: Callable[..., Any]) -> None:
    with pytest.raises(RunDirectoryError, match="computes other outputs than that of the run"):
        use(run, model=net(nn.ReLU), dataset=data())
    with pytest.raises(RunDirectoryError, match="has other parameters"):
        use(run, model=nn.Linear(4, 2), dataset=data())
    replaced(run / CONFIG, "l2 = 0.001", "l2 = 0.01")
    with pytest.raises(RunDirectoryError, match=r"made with l2 = 0\.001, config\.toml has 0\.01; restore config\.toml"):
        use(run, model=net(), dataset=data())


class Nearly(nn.Module):
    """Another forward pass whose outputs are within 2 % of those of the run."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change, self.layers = change, net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(self.layers(x))


@pytest.mark.parametrize(
    "change",
    [lambda out: out * 1.002, lambda out: nn.functional.leaky_relu(out, 0.995), lambda out: out.half().float()],
)
def test_a_forward_pass_that_differs_by_little_is_another_model(
    change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    train(
        make_config(SETTINGS, {"output": tmp_path / "a"}), model=Nearly(lambda out: out), dataset=data(), figure=False
    )
    with pytest.raises(RunDirectoryError, match="computes other outputs than that of the run"):
        resume_run(tmp_path / "a", model=Nearly(change), dataset=data(), figure=False)
    # Products in another order, as a compiled model has them, are the same model.
    same = Nearly(lambda out: (out * 3.0) / 3.0)
    assert resume_run(tmp_path / "a", model=same, dataset=data(), figure=False).result["status"] == "done"


def test_settings_that_change_no_result_may_change(run: Path) -> None:
    replaced(run / CONFIG, "checkpoint_seconds = 0.0", "checkpoint_seconds = 99.0")
    replaced(run / CONFIG, 'device = "auto"', 'device = "cpu"')
    assert resume_run(run, model=net(), dataset=data(), figure=False).result["status"] == "done"


def test_the_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(make_config(SETTINGS, {"output": other, "seed": 1}), model=net(), dataset=data(), figure=False)
    shutil.copy(other / CHECKPOINT, run / CHECKPOINT)
    with pytest.raises(RunDirectoryError, match=r"made with seed = 1, config\.toml has 0"):
        resume_run(run, model=net(), dataset=data())


@pytest.mark.parametrize("name", [CHECKPOINT, MODEL])
def test_tensors_that_were_changed_are_refused(run: Path, name: str) -> None:
    """NaN written by another program, whose file is sound and whose header is the run's own."""
    with safetensors.safe_open(run / name, framework="pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    safetensors.torch.save_file(tensors, run / name, metadata=header)
    use = resume_run if name == CHECKPOINT else evaluate_run
    with pytest.raises(RunDirectoryError, match=rf"{name} is corrupt \(its digest"):
        use(run, model=net(), dataset=data())


def test_a_start_from_damaged_parameters_is_refused(run: Path) -> None:
    tensors = safetensors.torch.load_file(run / MODEL)
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    safetensors.torch.save_file(tensors, run / MODEL)
    with pytest.raises(SettingError, match=r"init_from.*is not finite everywhere"):
        train(make_config(SETTINGS, {"init_from": run}), model=net(), dataset=data(), keep=False)


def test_a_budget_below_the_first_checks_is_refused() -> None:
    with pytest.raises(SettingError, match=r"max_epochs = 0\.01: nothing would be trained: checking model and data"):
        train(make_config(SETTINGS, {"max_epochs": 0.01}), model=net(), dataset=data(), keep=False)


def test_an_unlimited_number_of_iterations_stays_so(tmp_path: Path) -> None:
    """TOML has no null: without a line of its own the default of 500 would hold in a resumed run."""
    path = tmp_path / "run"
    settings = {**SETTINGS, "max_iterations": None, "max_epochs": 4}
    train(make_config(settings, {"output": path}), model=net(), dataset=data(), figure=False)
    assert 'max_iterations = "none"' in (path / CONFIG).read_text()
    assert resume_run(path, model=net(), dataset=data(), figure=False).result["status"] == "done"


class Heard:
    """A progress display that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def resumed(run: Path) -> list[str]:
    heard = Heard()
    result = resume_run(run, model=net(), dataset=data(), progress=heard, figure=False)
    assert result.result["status"] == "done" and (run / RESULT).is_file()
    return heard.warnings


def test_a_checkpoint_of_an_earlier_version_is_taken_with_a_word(run: Path) -> None:
    directory = RunDirectory.open(run)
    checkpoint = directory.load_checkpoint()
    assert checkpoint is not None
    tensors, state = checkpoint
    for name in ("settings", "data", "model"):
        del state[name]
    safetensors.torch.save_file(tensors, run / CHECKPOINT, metadata={"state": json.dumps(state)})
    assert any("of an earlier version" in text for text in resumed(run))


def test_what_is_missing_or_damaged_beside_the_checkpoint_is_said_and_gone_on_without(run: Path) -> None:
    (run / ENVIRONMENT).unlink()
    assert any(ENVIRONMENT in text for text in resumed(run))
    assert json.loads((run / ENVIRONMENT).read_text())["torch"] == torch.__version__
    whole = (run / METRICS).read_bytes()
    (run / METRICS).write_bytes(b"\x00\xffgarbage\n" + whole[20:])
    (run / f".{CHECKPOINT}.4711.tmp").write_bytes(b"half")
    assert any("missing or damaged" in text for text in resumed(run))
    assert b"garbage" not in (run / METRICS).read_bytes() and not list(run.glob(".*.tmp"))
    assert (run / METRICS).read_bytes() == b"".join(whole.splitlines(keepends=True)[1:])


@pytest.mark.parametrize("name", [METRICS, RESULT, MODEL, "loss.png", "state.json"])
def test_what_could_not_be_written_is_found_before_training(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subsetopt.training.resume.finish", lambda *arguments: pytest.fail("it trained"))
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(RunDirectoryError, match=f"{name} is no regular file; remove it"):
        resume_run(run, model=net(), dataset=data())


@pytest.mark.parametrize("grow", [1.0000001, 1 + 2**-52, 1.01])
def test_stages_without_end_are_refused(grow: float) -> None:
    with pytest.raises(SettingError, match=rf"grow={grow!r} makes .* stages .* use grow=1\.\d+ or more"):
        make_config({"grow": grow})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")], {"a": float("-inf")}])
def test_numbers_in_tables_are_finite(value: object) -> None:
    with pytest.raises(SettingError, match=r"solver_args.*must hold finite numbers"):
        make_config({"solver_args": {"damping": value}})


def test_a_phase_written_before_a_setting_existed_has_its_default() -> None:
    """`coupled_l2` came later than checkpoints that list their phases, as the runs of a comparison do."""
    phase = {"method": "adamw", "data": "full", "role": "handoff", "epochs": 1.0, "lr": 0.01}
    config = make_config({"solver": "none", "phase": [phase]})
    saved = config.model_dump(mode="json")
    del saved["phase"][0]["coupled_l2"]
    _check_settings(saved, config, FREE)
    with pytest.raises(OtherRunError, match="it was made with phase"):
        _check_settings({**saved, "phase": [{**saved["phase"][0], "lr": 0.02}]}, config, FREE)
