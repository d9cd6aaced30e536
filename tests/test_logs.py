"""What is left out is said on standard error, unless the program has handlers of its own, which get it then."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import logging
{configured}
import subsetopt.training.observers
from subsetopt.compare.methods import parse_methods
print(len(parse_methods(["adam", "nope_of_nobody:Adam?"])))
"""


@pytest.mark.parametrize(
    ("configured", "line"),
    [
        ("", "method nope_of_nobody:Adam is left out"),
        ("logging.basicConfig(format='mine: %(message)s')", "mine: method nope_of_nobody:Adam is left out"),
        ("logging.getLogger('subsetopt').addHandler(logging.StreamHandler())", "method nope_of_nobody:Adam is left"),
        ("logging.getLogger('subsetopt').setLevel('ERROR')", None),
    ],
    ids=["none", "root", "ours", "silenced"],
)
def test_a_method_that_is_left_out_is_said_once(configured: str, line: str | None) -> None:
    program = _PROGRAM.format(configured=configured)
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout == "1\n"
    lines = outcome.stderr.splitlines()
    assert len(lines) == (line is not None) and all(each.startswith(str(line)) for each in lines)
