"""The short names of methods against the phases they must mean, and every mistake in one line."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import StudyConfig, make_study
from subsetopt.compare.knobs import knob_of
from subsetopt.compare.methods import describe, parse_method, parse_methods
from subsetopt.errors import SettingError
from subsetopt.training.settings.run import make_config


def _phases(name: str) -> list[tuple[str, str, str, dict[str, float]]]:
    phases = make_config(parse_method(name).settings).phases()
    return [(phase.method, phase.data, phase.sampler, phase.sampler_settings) for phase in phases]


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("lbfgs", [("lbfgs", "full", "full", {})]),
        ("kfac-stream", [("kfac-stream", "full", "full", {})]),
        ("kfac-stream+full", [("kfac-stream", "full", "full", {}), ("lbfgs", "full", "full", {})]),
        ("kfac-stream+newton-cg", [("kfac-stream", "full", "full", {}), ("newton-cg", "full", "full", {})]),
        ("lbfgs@0.1+kfac-stream", [("lbfgs", "subset", "full", {}), ("kfac-stream", "full", "full", {})]),
        ("lbfgs@0.1", [("lbfgs", "subset", "full", {})]),
        ("lbfgs@0.1+full", [("lbfgs", "subset", "full", {}), ("lbfgs", "full", "full", {})]),
        ("lbfgs@0.1+newton-cg", [("lbfgs", "subset", "full", {}), ("newton-cg", "full", "full", {})]),
        ("newton-cg@0.05+adam", [("newton-cg", "subset", "full", {}), ("adam", "full", "full", {})]),
        ("lbfgs@0.1+srs", [("lbfgs", "subset", "full", {}), ("sgd", "full", "srs", {})]),
        ("lbfgs@0.1+rs2@0.3/adam", [("lbfgs", "subset", "full", {}), ("adam", "full", "rs2", {"fraction": 0.3})]),
        (
            "lbfgs@0.25x2+sgd",
            [("lbfgs", "subset", "full", {})] * 2 + [("lbfgs", "full", "full", {}), ("sgd", "full", "full", {})],
        ),
        ("lbfgs@residual", [("sgd", "full", "full", {}), ("lbfgs", "full", "full", {})]),
        (
            "newton-cg@residual+adam",
            [("sgd", "full", "full", {}), ("newton-cg", "full", "full", {}), ("adam", "full", "full", {})],
        ),
        ("adam", [("adam", "full", "full", {})]),
        ("srs@0.1", [("sgd", "full", "srs", {"fraction": 0.1})]),
        ("nw-sketch@0.3/adamw", [("adamw", "full", "nw-sketch", {"fraction": 0.3})]),
        ("scipy:CG@0.2", [("scipy:CG", "subset", "full", {})]),
        ("torch.optim:RAdam", [("torch.optim:RAdam", "full", "full", {})]),
        ("srs@0.1/torch.optim:RAdam(lr=1e-2)", [("torch.optim:RAdam", "full", "srs", {"fraction": 0.1})]),
        (
            "lbfgs@0.1+torch.optim:Adam(eps=1e+0,betas=(0.8,0.9))",
            [("lbfgs", "subset", "full", {}), ("torch.optim:Adam", "full", "full", {})],
        ),
        ("scipy:L-BFGS-B@0.2", [("scipy:L-BFGS-B", "subset", "full", {})]),
    ],
)
def test_a_name_means_its_phases(name: str, phases: list[tuple[str, str, str, dict[str, float]]]) -> None:
    assert _phases(name) == phases


def test_arguments_reach_the_phase_and_its_rate_is_what_is_tuned() -> None:
    name = "torch.optim:SGD(momentum=0.8,nesterov=true,lr=0.02)"
    (phase,) = make_config(parse_method(name).settings).phases()
    assert phase.settings == {"momentum": 0.8, "nesterov": True} and phase.lr == 0.02
    knob = knob_of((phase,), 0.5)
    assert knob is not None and (knob.name, knob.centre) == ("lr", 0.02)
    (radam,) = make_config(parse_method("torch.optim:RAdam").settings).phases()
    knob = knob_of((radam,), 0.5)
    assert knob is not None and knob.centre == 1e-3  # the default of the class itself


def test_a_weight_decay_of_the_optimizers_own_is_another_objective() -> None:
    study = make_study({"methods": ["adam", "torch.optim:AdamW(weight_decay=0.01)"], "dataset": "digits"})
    with pytest.raises(SettingError, match=r"^weight_decay = 0.01: is the own weight decay of torch.optim:AdamW"):
        CellMaker(study)
    assert CellMaker(make_study({"methods": ["torch.optim:AdamW"], "dataset": "digits"})).methods


def test_a_method_whose_package_is_missing_is_left_out_where_marked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Presets have `soap?`: part of the comparison where the extra is installed; without the mark it is an error."""
    monkeypatch.setattr("subsetopt.compare.methods.find_spec", lambda name: None)
    assert [method.name for method in parse_methods(["adam", "soap?", "sgd?"])] == ["adam", "sgd"]
    assert "subsetopt[optimizers]" in caplog.text
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(SettingError, match=r"pip install 'subsetopt\[optimizers\]'") as caught:
        parse_methods(["soap"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist-relu", "cifar10", "cifar10-resnet", "strategies-digits"])
def test_the_presets_have_soap(name: str) -> None:
    preset = tomllib.loads((Path(__file__).parents[2] / "configs" / f"compare-{name}.toml").read_text())
    assert "soap?" in preset["methods"]


def test_commas_in_parentheses_part_no_methods() -> None:
    config = StudyConfig(methods="adam(betas=(0.8,0.9),eps=1e-6), srs@0.1 ,, sgd")  # type: ignore[arg-type] # as typed
    assert config.methods == ("adam(betas=(0.8,0.9),eps=1e-6)", "srs@0.1", "sgd")


def test_the_share_after_a_solver_is_that_of_the_subset() -> None:
    assert parse_method("lbfgs@0.25+full").settings["subset_frac"] == 0.25


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lbgfs@0.1", "did you mean 'lbfgs'?"),
        ("lbfgs@0.1+sr", "did you mean 'srs'?"),
        ("lbfgs+srs", "lbfgs@0.1+srs"),
        ("torch.optim:RAdm", "did you mean 'RAdam'?"),
        ("torch.optim:RAdam(momentum=1)", "no such setting"),
        ("adam(betas=0.9", "not of the form"),
        ("srs@0.1/nowhere:Else", "importing nowhere failed"),
        ("lbfgs@ten", "'ten' after @ is not a number"),
        ("lbfgs@0.01xtwo", "'two' after x is not a number"),
        ("lbfgs@1.5", "does not lie in (0, 1]"),
        ("lbfgs@nan", "does not lie in (0, 1]"),
        ("adam+srs", "adam is no solver"),
        ("adam@0.1", "rs2@0.1/adam"),
        ("full@0.5", "use sgd"),
        ("srs@0.1/adm", "did you mean 'adam'?"),
        ("lbfgs/adam", "belongs to a sampler"),
        ("", "unknown name"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(name: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        parse_method(name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_growing_subsets_are_described_as_one() -> None:
    config = make_config(parse_method("newton-cg@0.02x4").settings)
    assert describe(config) == "Newton-cg on subsets growing from 2 % by a factor of 4 to the full training set"


def test_the_description_says_every_phase() -> None:
    config = make_config(parse_method("lbfgs@0.05+srs@0.2").settings)
    assert describe(config) == (
        "Lbfgs on a random subset of 5 %, then sgd on batches that srs draws from the full training set (fraction 0.2)"
    )
