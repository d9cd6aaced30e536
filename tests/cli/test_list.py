"""`list` names what the registries hold."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("datasets", {"digits", "mnist", "cifar10", "cifar100", "npz"}),
        ("models", {"mlp", "cnn"}),
        ("solvers", {"lbfgs", "ncg", "newton-cg"}),
        ("samplers", {"full", "srs"}),
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
