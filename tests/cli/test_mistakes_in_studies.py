"""Mistakes on the command lines of studies, plans, benchmarks and ratios: one line, as typed, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_COMPARE = ("compare", "--seeds", "2", "--budget", "0.1")
_STUDY = ("study", "representativeness", "--repeats", "1")
_BARE = ("ratio", "--samples", "1000", "--outputs", "10", "--parameters", "10")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*_COMPARE, "--methods", "adam,adam"), "--methods adam: is listed twice"),
        ((*_COMPARE, "--methods", "adm"), "--methods adm: unknown name; did you mean 'adam'?"),
        ((*_COMPARE, "--methods", ""), "--methods '': is empty"),
        ((*_COMPARE, "--methods", "lbfgs@0.1+admm"), "--methods lbfgs@0.1+admm: hand-off = 'admm'"),
        ((*_COMPARE, "--methods", "srs@0.1/lbfgs"), "--methods srs@0.1/lbfgs: optimizer = 'lbfgs'"),
        ((*_COMPARE, "--methods", "torch.optim:SGD(nope=1)"), "--methods torch.optim:SGD(nope=1): nope = 1: "),
        ((*_COMPARE, "--methods", "lbfgs@1e-9"), "give a larger share after @"),
        ((*_COMPARE, "--methods", "lbfgs@0.01x1"), "--methods lbfgs@0.01x1: "),
        ((*_COMPARE[:3], "--methods", "adam", "--budget", "0"), "--budget 0: must be above 0"),
        ((*_COMPARE[:3], "--methods", "adam", "--budget", "1,1.0"), "--budget 1,1.0: has a value twice"),
        ((*_COMPARE, "--methods", "adam", "--target", "1,1.0"), "--target 1,1.0: has a value twice"),
        ((*_COMPARE, "--methods", "adam", "--target", "price"), "to predict is --target-column price"),
        ((*_BARE, "--target", "price"), "to predict is --target-column price"),
        ((*_COMPARE, "--methods", "adam", "--tuning-seeds", "0,1"), "--tuning-seeds and --seeds overlap in 0"),
        ((*_COMPARE, "--handoff-nesterov", "--handoff-momentum", "0"), "needs --handoff-momentum above 0"),
        ((*_COMPARE, "--methods", "adam", "--output", "a_file"), "--output a_file: exists and holds no study"),
        ((*_STUDY, "--fractions", "0"), "--fractions 0: does not lie in (0, 1]"),
        ((*_STUDY, "--fractions", "1"), "--fractions 1: has no share below 1"),
        ((*_STUDY, "--fractions", ""), "--fractions '': has no share below 1"),
        ((*_STUDY, "--fractions", "1e-9"), "--fractions 1e-9: leaves too few"),
        ((*_STUDY, "--solver", "adam"), "--solver adam: is no full-batch solver"),
        ((*_STUDY, "--solver", "kfac-stream"), "--solver kfac-stream: is no full-batch solver"),
        ((*_STUDY, "--solver-arg", "memory=1e9"), "--solver-arg memory=1e9: needs"),
        ((*_STUDY, "--solver-arg", "memory=-0"), "--solver-arg memory=-0: is out of range"),
        ((*_STUDY, "--model-arg", "hidden=0x10"), "--model-arg hidden=0x10: model 'mlp' has no such setting"),
        ((*_STUDY, "--chunk-size", "Auto"), "--chunk-size Auto: "),
        (("plan", "--excess", "1e309"), "--excess 1e309: must be a finite number"),
        (("plan", "--pilot-seconds", "inf"), "--pilot-seconds inf: must be a finite number"),
        (("plan", "--target-loss", ".1", "--pilot-seconds", "0"), "--target-loss .1: no pilot is run"),
        (("plan", "--target-loss", ".1", "--validation-fraction", "0"), "--target-loss .1: needs held-out data"),
        (("bench", "--processes", "5"), "--processes 5: are those of --scaling"),
        (("study", "--repeats", "2.5"), "'2.5' is not a valid whole number; for example 10"),
        (("bench", "--only", "algebra", "--parameters", "1e3"), "'1e3' is not a valid whole number; write 1000"),
        (("ratio", "--samples", "nan", "--outputs", "1", "--parameters", "2"), "'nan' is not a valid whole number"),
        (("bench", "--scaling", "--processes", "1000000"), "--processes 1000000: this machine has"),
        (("bench", "--scaling", "--only", "time"), "--only time: has no effect beside --scaling"),
        (("bench", "--problem", "wood", "--only", "products"), "--problem wood: is of the part solvers"),
        (("bench", "--quick", "--output", "a_file"), "'--output'"),
        (("bench", "--quick", "--data-dir", "nowhere"), "--data-dir nowhere: is not a directory"),
        ((*_BARE, "--dataset", "mnist"), "--dataset mnist: has no effect beside --samples"),
        ((*_BARE, "--data-file", "x.csv"), "--data-file x.csv: has no effect beside --samples"),
        ((*_BARE, "--model-arg", "width=3"), "--model-arg width=3: has no effect beside --parameters 10"),
        (("ratio", "--parameters", "10", "--model", "cnn"), "--model cnn: has no effect beside --parameters 10"),
        ((*_BARE, "--rows", "3"), "--rows 3: needs --effective RUN"),
        ((*_BARE, "--target", "1e300"), "--target 1e300: takes more than 9223372036854775808 samples"),
        ((*_BARE, "--augment-copies", "1" + 20 * "0"), "makes more than 9223372036854775808 samples"),
        (("ratio", "--samples", "1" + 20 * "0", "--outputs", "1", "--parameters", "1"), "is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_as_typed_before_any_work(cli: Any, command: tuple[str, ...], words: str) -> None:
    Path("a_file").touch()
    outcome = cli(*command)
    assert outcome.code == 2, outcome.err
    assert len(outcome.err.splitlines()) == 1 and words in outcome.line
    assert [path.name for path in Path.cwd().iterdir()] == ["a_file"], "nothing half-written"


def test_a_study_is_not_written_over_one_of_another_kind(cli: Any) -> None:
    compared = (*_COMPARE, "--methods", "adam", "--no-tune", "--output", "one", "--quiet")
    solved = (*_STUDY, "--fractions", "0.1", "--max-iterations", "2", "--output", "two", "--quiet")
    assert cli(*compared).code == 0 and cli(*solved).code == 0
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    for command, other in ((solved, "one"), (compared, "two")):
        outcome = cli(*(other if word in ("one", "two") else word for word in command))
        assert outcome.code == 2 and f"--output {other}: holds a study of another kind" in outcome.line
    assert {path: path.read_bytes() for path in before} == before


def test_what_has_no_effect_in_a_comparison_is_said(cli: Any) -> None:
    unused = ("--max-extensions", "7", "--solve-share", ".3", "--handoff-batch-size", "7", "--baseline", "lbfgs")
    outcome = cli(*_COMPARE, "--methods", "lbfgs", "--no-tune", *unused, "--output", "one")
    for words in (
        "--max-extensions 7 has no effect with --tune none",
        "--solve-share 0.3 has no effect on methods without a subset solve before a hand-off",
        "--handoff-batch-size 7 has no effect on any of these methods",
        "--baseline lbfgs has no effect on a single method",
    ):
        assert words in outcome.err, words
    used = cli(*_COMPARE, "--methods", "lbfgs@0.1+sgd,adam", "--no-tune", *unused[2:6], "--output", "two")
    assert "has no effect" not in used.err


def test_a_study_where_a_run_is_asked_for_is_named(cli: Any) -> None:
    assert cli(*_COMPARE, "--methods", "adam", "--no-tune", "--output", "one", "--quiet").code == 0
    for command in (("verify",), ("evaluate",), ("resume",), ("ratio", "--effective")):
        outcome = cli(*command, "one")
        assert outcome.code == 2 and "run = 'one': holds a study; give one of its runs, in one/cells" in outcome.line


def test_a_folder_that_is_a_file_is_refused_before_the_cells(cli: Any) -> None:
    command = (*_COMPARE, "--methods", "adam", "--no-tune", "--output", "one", "--quiet")
    Path("one").mkdir()
    Path("one/study.toml").touch()
    Path("one/cells").touch()
    outcome = cli(*command)
    assert outcome.code == 2 and "--output one: cells is no directory; remove it" in outcome.line


def test_a_learning_curve_is_drawn_again(cli: Any) -> None:
    solved = ("learn-curve", "--fractions", "0.1,0.2", "--repeats", "1", "--max-iterations", "2", "--output", "one")
    assert cli(*solved).code == 0
    Path("one/learning_curve.png").unlink()
    assert cli("report", "one", "--json").json["files"] == ["one/learning_curve.png"]
    assert Path("one/learning_curve.png").is_file() and not Path("one/representativeness.png").exists()
