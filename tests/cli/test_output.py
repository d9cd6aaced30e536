"""Standard output carries one strict JSON document and nothing else."""

from __future__ import annotations

import json
import math
import sys

import pytest
from subsetopt_cli.output import print_json, standard_output_reserved


def test_numbers_that_json_does_not_have_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5, "K·M/P")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, {"c": None}], "d": [1.5, "K·M/P"]}


def test_prints_of_others_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with standard_output_reserved():
        print("noise")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "noise\n")
    assert sys.stdout is not sys.stderr
