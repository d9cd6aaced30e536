"""Standard output carries one strict JSON document and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
from typing import Any

import pytest
from subsetopt_cli.main import cli as root
from subsetopt_cli.main import run
from subsetopt_cli.output import plain_output, print_json, standard_output_reserved


def test_numbers_that_json_does_not_have_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5, "K·M/P")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, {"c": None}], "d": [1.5, "K·M/P"]}


def test_prints_of_others_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with standard_output_reserved():
        print("noise")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "noise\n")
    assert sys.stdout is not sys.stderr


HOSTILE = "\x1b[31mred\x9b2J\x07 a\rb \u202egnp \udcff \x00"


def test_no_terminal_escape_passes_on_either_stream(capfd: pytest.CaptureFixture[str]) -> None:
    with plain_output():
        print(HOSTILE + "\tK·M/P")
        print(HOSTILE, file=sys.stderr)
        sys.stderr.write("\r 50 %")
    printed = capfd.readouterr()
    shown = "\\x1b[31mred\\x9b2J\\x07 a\\rb \\u202egnp \\udcff \\x00"
    assert printed.out == f"{shown}\tK·M/P\n"
    assert printed.err == f"{shown}\n\r 50 %"


def test_json_keeps_every_character_and_shows_none_of_these(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_output():
        print_json({"name": HOSTILE, "é": "·"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": HOSTILE, "é": "·"}
    assert not set(out) & set("\x1b\x9b\x07\r\u202e\x00\x7f")


def test_what_the_terminal_cannot_encode_is_written_out() -> None:
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")) as stream, plain_output():
        print("K·M/P", file=sys.stdout)
        stream.flush()
        assert raw.getvalue() == b"K\\xb7M/P\n"


def test_a_hostile_name_in_an_error_is_shown_as_text(cli: Any) -> None:
    outcome = cli("train", "--dataset", "\x1b[2Jmnist", "--output", "x\x1b]0;title\x07")
    assert outcome.code == 2 and "\x1b" not in outcome.err and "\\x1b[2Jmnist" in outcome.line
    outcome = cli("evaluate", "run\x9b1m")
    assert outcome.code == 2 and "\x9b" not in outcome.line


def test_what_matplotlib_logs_of_fonts_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does with a cache of fonts that another installation wrote; other records pass."""

    def draw(*_: object, **__: object) -> None:
        logging.getLogger("matplotlib.font_manager").warning("findfont: Font family not found")
        logging.getLogger("matplotlib.axes").warning("passes")

    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    monkeypatch.setattr(root, "main", draw)
    assert run([]) == 0
    assert [record.message for record in caplog.records] == ["passes"] and logger.level == before
