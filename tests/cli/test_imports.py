"""A run imports what it needs: torch's compiler, sympy, scikit-learn and scipy.stats take longer than a solve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "sklearn", "scipy.stats", "scipy.optimize", "scipy.special")
CODE = """
import json, sys
from subsetopt_cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def imported(*arguments: str) -> tuple[int, set[str]]:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


def test_a_short_run_imports_neither_compiler_nor_statistics(tmp_path: Path) -> None:
    settings = ["--max-iterations", "3", "--handoff-epochs", "0.2", "--output", str(tmp_path / "run"), "--quiet"]
    code, modules = imported("train", *settings)
    assert code == 0 and (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert "torch" in modules and not {name for name in HEAVY if name in modules}


def test_help_imports_no_torch() -> None:
    for arguments in (("--help",), ("train", "--help")):
        code, modules = imported(*arguments)
        assert code == 0 and "torch" not in modules and "scipy" not in modules
