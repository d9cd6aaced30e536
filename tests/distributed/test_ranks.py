"""Real processes against a process on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Launch = Callable[..., Any]


def test_three_ranks_do_the_work_of_one_process(launch: Launch) -> None:
    *ranks, last = launch(3, Path(__file__).with_name("checks_on_ranks.py"))
    for rank in ranks:
        code, out, err = rank.finish()
        assert (code, out) == (0, "fine\n"), err
    last.process.kill()
    assert last.finish()[1] == "hangs\n"
