"""`download` passes its work to the library, and says in one line what cannot be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from subsetopt_cli.commands.download import _FileBar


@pytest.mark.parametrize(
    ("name", "words"), [("digits", "nothing to download"), ("mnits", "did you mean 'mnist'?"), ("npz", "your own")]
)
def test_what_cannot_be_downloaded(cli: Any, name: str, words: str) -> None:
    outcome = cli("download", name, "--data-dir", "data")
    assert outcome.code == 2 and words in outcome.line
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("flags", "variable", "expected"),
    [(["--data-dir", "here"], None, "here"), ([], "there", "there"), (["--data-dir", "here"], "there", "here")],
)
def test_data_go_where_the_flag_or_else_the_environment_says(
    cli: Any, monkeypatch: pytest.MonkeyPatch, flags: list[str], variable: str | None, expected: str
) -> None:
    def fake(name: str, data_dir: Path, *, progress: Callable[[int, int | None], None]) -> list[Path]:
        progress(5, 10)
        return [data_dir / name]

    monkeypatch.setattr("subsetopt.data.download", fake)
    if variable is not None:
        monkeypatch.setenv("SUBSETOPT_DATA", variable)
    outcome = cli("download", "mnist", *flags)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{expected}/mnist\n", "")


def test_bar_starts_anew_with_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    with _FileBar(silent=False) as bar:
        bar.update(1000, 2000)
        bar.update(2000, 2000)
        first = bar._bar
        bar.update(0, 500)
        assert bar._bar is not first
    assert "2.00k/2.00k" in capsys.readouterr().err
