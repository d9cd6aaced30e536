"""`subsetopt bench` on the command line; what it measures is tested in tests/bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_json_is_one_document_of_the_parts_asked_for(cli: Callable[..., Any], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = cli(
        "bench", "--only", "products", "--quick", "--repeats", 1, "--json", "--data-dir", empty, "--output", "out"
    )
    document = outcome.json
    assert [row["model"] for row in document["products"]][:3] == ["mlp", "cnn", "resnet"]
    assert "solvers" not in document and "measuring products" in outcome.err
    assert (tmp_path / "out" / "bench.json").is_file() and (tmp_path / "out" / "table.md").is_file()


def test_tables_are_for_people(cli: Callable[..., Any], tmp_path: Path) -> None:
    outcome = cli("bench", "--only", "overhead", "--quick", "--repeats", 1, "--data-dir", tmp_path)
    assert outcome.code == 0
    assert "Overhead: cnn on 100 images (synthetic)" in outcome.out and "images: synthetic" in outcome.out


def test_mistakes_are_one_line(cli: Callable[..., Any]) -> None:
    assert cli("bench", "--only", "solver").code == 2
    assert cli("bench", "--repeats", 0).code == 2
    assert cli("bench", "--clock", "sun").code == 2
    assert "--pairs 3: narrows the part 'algebra' only; measure it: --only algebra" in cli("bench", "--pairs", 3).err
