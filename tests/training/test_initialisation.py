"""Starting from what another run left behind: exactly its model, or one line that says why not."""

import pytest
import torch
from safetensors.torch import save_file

from subsetopt.errors import SettingError
from subsetopt.training.evaluation import evaluate_run
from subsetopt.training.preparation import prepare
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

SHORT = {"solver": "none", "handoff": "sgd", "handoff_epochs": 1}


@pytest.fixture
def finished(tmp_path, images, net, monkeypatch):
    """A finished run of a model with BatchNorm statistics."""
    monkeypatch.setattr("subsetopt.report.figure.loss_figure", lambda *given: None)
    return train(make_config({**SHORT, "output": tmp_path / "first"}), model=net(norm=True), dataset=images)


@pytest.mark.parametrize("what", ["run", "file"])
def test_parameters_and_statistics_are_those_of_the_run(what, finished, images, net):
    path = finished.directory if what == "run" else finished.directory / "model.safetensors"
    data, _, run = prepare(make_config({**SHORT, "init_from": path}), net(norm=True), images)
    state = run.model.flat.state_dict(run.model.flat.initial())
    expected = finished.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not torch.equal(state["1.running_mean"], net(norm=True).state_dict()["1.running_mean"])
    assert run.model.evaluate(data, run.model.flat.initial(), SplitName.TEST) == finished.result["metrics"]["test"]


def test_a_run_that_started_from_another_is_evaluated_without_it(finished, images, net, tmp_path):
    config = make_config({**SHORT, "init_from": finished.directory, "output": tmp_path / "second"})
    second = train(config, model=net(norm=True), dataset=images)
    assert resume_run(second.directory, model=net(norm=True), dataset=images).result["metrics"]
    finished.directory.rename(tmp_path / "gone")
    metrics = evaluate_run(second.directory, splits=("test",), model=net(norm=True), dataset=images)
    assert metrics["test"] == second.result["metrics"]["test"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no such run or file"),
        (lambda folder: folder, "has no model.safetensors; is the run finished"),
        (
            lambda folder: (folder / "x.safetensors").write_text("no") and folder / "x.safetensors",
            "no safetensors file",
        ),
        (
            lambda folder: save_file({"a": torch.zeros(2)}, folder / "a.safetensors") or folder / "a.safetensors",
            "does not fit",
        ),
    ],
    ids=["missing", "unfinished", "corrupt", "other-model"],
)
def test_what_cannot_be_started_from_is_told_in_one_line(make, message, tmp_path, images, net):
    with pytest.raises(SettingError, match=message) as caught:
        prepare(make_config({**SHORT, "init_from": make(tmp_path)}), net(), images)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("init_from = ")
