"""One mistake, one sentence: solvers, samplers, the stream and models refuse a setting in the same words.

Reference: the sentences below, once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from subsetopt.errors import SettingError, command_line
from subsetopt.models import build_model
from subsetopt.samplers import make_sampler
from subsetopt.settings import check_choice, check_count, check_flag, check_number, check_settings, setting
from subsetopt.solvers import make_solver
from subsetopt.training.phases.kfac_stream.settings import stream_settings


def solver(**settings: Any) -> object:
    return make_solver("lbfgs", **settings)


def sampler(**settings: Any) -> object:
    return make_sampler("nw-sketch", 100, 10, **settings)


def stream(**settings: Any) -> object:
    return stream_settings(settings, 1000)


def model(**settings: Any) -> object:
    return build_model("resnet", in_shape=(1, 8, 8), n_outputs=2, **settings)


def mlp(**settings: Any) -> object:
    return build_model("mlp", in_shape=(3,), n_outputs=2, **settings)


def p_sgd(**settings: Any) -> object:
    return make_sampler("p-sgd", 100, 10, **settings)


def message(make: Callable[..., object], **settings: Any) -> str:
    with pytest.raises(SettingError) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "owner", "typed", "close"),
    [
        (solver, "solver 'lbfgs'", "memroy", "memory"),
        (sampler, "sampler 'nw-sketch'", "fracton", "fraction"),
        (stream, "solver 'kfac-stream'", "directons", "directions"),
        (mlp, "model 'mlp'", "width", "widths"),
    ],
)
def test_an_unknown_setting(make: Callable[..., object], owner: str, typed: str, close: str) -> None:
    wanted = rf"^{typed} = 3: {owner} has no such setting; did you mean '{close}'\? it has (\w+, )*{close}(, \w+)*$"
    assert re.search(wanted, message(make, **{typed: 3}))
    assert re.search(rf"^zzzz = 3: {owner} has no such setting; it has (\w+, )*{close}(, \w+)*$", message(make, zzzz=3))


def test_a_setting_of_what_has_none() -> None:
    found = message(lambda **settings: make_sampler("full", 10, 5, **settings), fraction=1)
    assert found == "fraction = 1: sampler 'full' has no such setting; it has none"


WHOLE = [(solver, "memory"), (sampler, "repetitions"), (stream, "pass_steps"), (model, "width")]


@pytest.mark.parametrize(("make", "name"), WHOLE)
@pytest.mark.parametrize("value", ["ten", True, 2.5, [3], {}, float("nan"), float("inf")])
def test_what_is_not_a_whole_number(make: Callable[..., object], name: str, value: object) -> None:
    assert message(make, **{name: value}).startswith(f"{name} = {value!r}: is not a whole number; give ")


NUMBERS = [(solver, "gtol"), (sampler, "mixing"), (stream, "rate"), (mlp, "dropout")]


@pytest.mark.parametrize(("make", "name"), NUMBERS)
@pytest.mark.parametrize("value", ["ten", True, None, (0.5,), float("nan"), 10**400])
def test_what_is_not_a_finite_number(make: Callable[..., object], name: str, value: object) -> None:
    assert re.search(rf"^{name} = .*: is not a finite number; give ", message(make, **{name: value}))


@pytest.mark.parametrize(("make", "name"), [(solver, "strong_wolfe"), (p_sgd, "replacement"), (mlp, "batch_norm")])
@pytest.mark.parametrize("value", ["maybe", 2, None, 0.0])
def test_what_is_not_a_switch(make: Callable[..., object], name: str, value: object) -> None:
    assert message(make, **{name: value}) == f"{name} = {value!r}: is not a switch; give true or false"


@pytest.mark.parametrize(
    ("make", "name", "choices"),
    [
        (solver, "preconditioner", "diagonal, kfac, none"),
        (sampler, "hash", "p-stable, srp"),
        (stream, "draw", "curvature, empirical, labels"),
        (model, "norm", "batch, group"),
    ],
)
def test_what_is_no_choice(make: Callable[..., object], name: str, choices: str) -> None:
    assert message(make, **{name: "zzz"}) == f"{name} = 'zzz': unknown name; choose one of {choices}"


@pytest.mark.parametrize(
    ("make", "name", "value", "wanted"),
    [
        (solver, "memory", 0, "a whole number of at least 1"),
        (solver, "curvature", 1.5, "a number above 0 and below 1"),
        (solver, "gtol", -1.0, "a number of at least 0"),
        (sampler, "query_every", 0, "a whole number of at least 1"),
        (sampler, "fraction", 1.5, "a number above 0 and at most 1"),
        (sampler, "mixing", -0.1, "a number of at least 0 and at most 1"),
        (stream, "momentum", 1.0, "a number of at least 0 and below 1"),
    ],
)
def test_what_is_out_of_range(make: Callable[..., object], name: str, value: object, wanted: str) -> None:
    assert message(make, **{name: value}) == f"{name} = {value!r}: is out of range; give {wanted}"


def test_a_model_without_a_setting_that_it_needs_says_how_to_give_it() -> None:
    def needy(depth: int) -> None: ...

    from subsetopt.models.arguments import convert_settings

    with pytest.raises(SettingError, match=r"model 'm' needs this setting; add model_args=\{'depth': 'VALUE'\}"):
        convert_settings("m", needy, {})
    with command_line(["train"]), pytest.raises(SettingError, match=r"needs this setting; add --model-arg depth=VALUE"):
        convert_settings("m", needy, {})


@dataclass
class Made:
    """A dataclass of every type of setting."""

    whole: int | None = setting(3, at_least=1, at_most=9)
    number: float = setting(0.5, above=0)
    switch: bool = False
    word: Literal["a", "b"] = "a"


def test_values_become_what_is_declared() -> None:
    given = {"whole": 4.0, "number": 2, "switch": True, "word": "b"}
    checked = check_settings(Made, given, "made")
    assert checked == {"whole": 4, "number": 2.0, "switch": True, "word": "b"}
    assert [type(value) for value in checked.values()] == [int, float, bool, str]
    assert check_settings(Made, {"whole": None, "number": np.int64(3)}, "made") == {"whole": None, "number": 3.0}


def test_the_checks_of_single_values_speak_alike() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: check_count("n", "x"), "n = 'x': is not a whole number; give a whole number of at least 1"),
        (lambda: check_count("n", 0), "n = 0: is out of range; give a whole number of at least 1"),
        (lambda: check_number("t", None, 0), "t = None: is not a finite number; give a number of at least 0"),
        (lambda: check_number("t", 3, 0, 2), "t = 3: is out of range; give a number of at least 0 and at most 2"),
        (lambda: check_flag("s", 1), "s = 1: is not a switch; give true or false"),
        (lambda: check_choice("c", 1, ("a", "b")), "c = '1': unknown name; choose one of a, b"),
    ]
    for check, wanted in cases:
        with pytest.raises(SettingError) as caught:
            check()
        assert str(caught.value) == wanted
