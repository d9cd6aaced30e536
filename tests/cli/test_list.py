"""`list` names what the registries hold."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("datasets", {"digits", "mnist", "cifar10", "cifar100", "npz"}),
        ("models", {"mlp", "cnn"}),
        ("solvers", {"lbfgs", "ncg", "newton-cg", "kfac-stream"}),
        ("samplers", {"full", "srs"}),
        ("strategies", {"kfac-stream", "one-subset", "growing-subsets", "residual-subsets", "several-subsets"}),
        ("optimizers", {"sgd", "adam", "adamw", "muon"}),
        ("augmentations", {"standard", "cutout", "mixup", "ricap", "randaugment"}),
    ],
)
def test_json_has_names_and_one_line_summaries(cli: Any, kind: str, expected: set[str]) -> None:
    entries = cli("list", kind, "--json").json
    assert all(set(entry) == {"name", "summary"} for entry in entries)
    assert expected <= {entry["name"] for entry in entries}
    assert all(entry["summary"] and "\n" not in entry["summary"] for entry in entries)


def test_text_has_one_line_per_name(cli: Any) -> None:
    entries = cli("list", "samplers", "--json").json
    lines = cli("list", "samplers").out.splitlines()
    assert [line.split()[0] for line in lines] == [entry["name"] for entry in entries]


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("solvers", "lbfgs", ("## Source", "memory", "a whole number >= 1, or none")),
        ("solvers", "kfac-stream", ("EKFAC", "a number >= 0 and < 1")),
        ("samplers", "rs2", ("## Formula", "fraction", "0.1")),
        ("models", "mlp", ("widths", "tanh | softplus")),
        ("datasets", "mnist", ("MNIST",)),
    ],
)
def test_a_name_shows_its_card_with_settings_defaults_and_ranges(
    cli: Any, kind: str, name: str, words: tuple[str, ...]
) -> None:
    shown = cli("list", kind, name)
    assert shown.code == 0 and all(word in shown.out for word in words)
    card = cli("list", kind, name, "--json").json
    assert set(card) == {"name", "summary", "card", "settings"} and card["name"] == name
    assert all(set(row) == {"name", "default", "values"} for row in card["settings"])


@pytest.mark.parametrize(("kind", "name"), [("solvers", "lbgfs"), ("optimizers", "adma"), ("presets", "digit")])
def test_an_unknown_name_is_one_line_with_a_hint(cli: Any, kind: str, name: str) -> None:
    failed = cli("list", kind, name)
    assert failed.code == 2 and "did you mean" in failed.line
