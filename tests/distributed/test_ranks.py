"""Real processes against a process on its own."""

from __future__ import annotations

from pathlib import Path

from conftest import Launch


def test_three_ranks_do_the_work_of_one_process(launch: Launch) -> None:
    for rank in launch(3, Path(__file__).with_name("checks_on_ranks.py")):
        code, out, err = rank.finish()
        assert (code, out) == (0, "fine\n"), err
