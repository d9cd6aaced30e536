"""The short names of methods against the phases they must mean, and every mistake in one line."""

from __future__ import annotations

import pytest

from subsetopt.compare.methods import describe, parse_method
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
        ("adam", [("adam", "full", "full", {})]),
        ("srs@0.1", [("sgd", "full", "srs", {"fraction": 0.1})]),
        ("nw-sketch@0.3/adamw", [("adamw", "full", "nw-sketch", {"fraction": 0.3})]),
        ("scipy:L-BFGS-B@0.2", [("scipy:L-BFGS-B", "subset", "full", {})]),
    ],
)
def test_a_name_means_its_phases(name: str, phases: list[tuple[str, str, str, dict[str, float]]]) -> None:
    assert _phases(name) == phases


def test_the_share_after_a_solver_is_that_of_the_subset() -> None:
    assert parse_method("lbfgs@0.25+full").settings["subset_frac"] == 0.25


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lbgfs@0.1", "did you mean 'lbfgs'?"),
        ("lbfgs@0.1+sr", "did you mean 'srs'?"),
        ("lbfgs+srs", "lbfgs@0.1+srs"),
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
