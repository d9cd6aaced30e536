"""`subsetopt plan` on the embedded digits: text, JSON, mistakes."""

from __future__ import annotations

from typing import Any

SMALL = ("plan", "--dataset", "digits", "--model", "linear", "--l2", "0.1")


def test_json_has_speeds_pilot_strategies_and_a_command_that_parses(cli: Any) -> None:
    document = cli(*SMALL, "--excess", "0.05", "--json").json
    assert document["samples"] == 1294 and document["wanted"]["excess"] == 0.05
    assert document["speeds"]["unit"] > 0 and document["pilot"]["samples"] == 129
    names = {row["strategy"] for row in document["strategies"]}
    assert {"sgd", "adam", "lbfgs", "grow", "kfac-stream", "newton-cg", "lbfgs@0.1+full"} <= names
    command = document["recommendation"]["command"].split()
    assert command[:8] == ["subsetopt", "train", "--dataset", "digits", "--model", "linear", "--l2", "0.1"]


def test_text_ends_in_a_recommendation(cli: Any) -> None:
    outcome = cli(*SMALL, "--by", "units")
    text = " ".join(outcome.out.split())
    for words in ("one epoch-equivalent takes", "Pilot: 129 samples", "dependent calls", "subsetopt train --dataset",
                  "Run ", "It rests on:", "This plan cost"):  # fmt: skip
        assert words in text, words
    assert all(len(line) <= 110 for line in outcome.out.splitlines() if "subsetopt train" not in line)


def test_mistakes_are_one_line(cli: Any) -> None:
    assert "--excess -1.0" in cli(*SMALL, "--excess", "-1").line
    assert "did you mean 'mnist'?" in cli("plan", "--dataset", "mnits").line
    assert cli(*SMALL, "--by", "watts").code == 2
