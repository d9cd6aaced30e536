"""Time from the shell to the help text: well under half a second (`pytest tests/benchmarks --benchmark-only`)."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help(benchmark, arguments):
    benchmark(subprocess.run, [sys.executable, "-m", "subsetopt", *arguments], capture_output=True, check=True)
