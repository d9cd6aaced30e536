"""The L2 path. Reference: each strength solved alone, from the model's initial parameters."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt import SubsetTrainer
from subsetopt.analysis.verification import verify_run
from subsetopt.data import dataset_from_arrays
from subsetopt.errors import UserError
from subsetopt.objective import FlatModel, Objective
from subsetopt.training.settings.run import make_config

STRENGTHS = [1e-3, 0.3, 0.03]


def data() -> Any:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(240, 6, dtype=torch.float64, generator=generator)
    y = (x @ torch.randn(6, 3, dtype=torch.float64, generator=generator)).add(
        1.5 * torch.randn(240, 3, dtype=torch.float64, generator=generator)
    )
    return dataset_from_arrays(x, y.argmax(1), validation_fraction=0.25)


def trainer(model: str = "linear", **settings: Any) -> SubsetTrainer:
    own = {"subset_frac": 0.5, "handoff": "none", "dtype": "float64", "gtol": 1e-8, "l2": STRENGTHS, **settings}
    return SubsetTrainer(model, data(), **own)


def path_of(fitted: SubsetTrainer) -> dict[str, Any]:
    found: dict[str, Any] = fitted.result["phases"][0]["l2_path"]
    return found


def test_the_chosen_minimum_is_that_of_its_strength_alone() -> None:
    """The model is convex: there is one minimum for each strength, whatever the way to it."""
    path = trainer().fit()
    alone = {strength: trainer(l2=strength).fit() for strength in STRENGTHS}
    found, held_out = path_of(path), {s: t.result["metrics"]["validation"]["loss"] for s, t in alone.items()}
    assert [minimum["l2"] for minimum in found["minima"]] == sorted(STRENGTHS, reverse=True)
    for minimum in found["minima"]:
        assert minimum["held_out_loss"] == pytest.approx(held_out[minimum["l2"]], rel=1e-4)
    chosen = min(held_out, key=held_out.__getitem__)
    assert found["chosen"] == chosen and path.result["phases"][0]["converged"]
    assert path.result["objective"] == pytest.approx(alone[chosen].result["objective"], rel=1e-6)
    for own, reference in zip(path.model.parameters(), alone[chosen].model.parameters(), strict=True):
        torch.testing.assert_close(own, reference, rtol=0, atol=1e-6)
    counted = sum(minimum["evaluations"] for minimum in found["minima"])
    assert path.result["phases"][0]["counts"]["evaluations"] == counted


def test_order_does_not_matter_and_one_strength_is_a_plain_run() -> None:
    first, second = (path_of(trainer(l2=given).fit()) for given in ("0.3,0.03,1e-3", (0.03, 1e-3, 0.3)))
    assert first == second == path_of(trainer().fit())
    assert make_config({"l2": [0.1]}).l2 == make_config({"l2": "0.1"}).l2 == 0.1
    assert len(make_config({"l2": [0.1]}).phases()) == len(make_config({}).phases())


@pytest.mark.parametrize("stop", [3, 20, 45, 60])
def test_a_run_that_was_stopped_anywhere_on_the_path_goes_on_bit_for_bit(stop: int, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model_args": {"widths": [3]}, "handoff": "full", "max_iterations": 200}
    whole = trainer("mlp", output=tmp_path / "whole", **given).fit()
    calls = iter(range(10**6))
    cut = SubsetTrainer(
        "mlp",
        data(),
        subset_frac=0.5,
        dtype="float64",
        gtol=1e-8,
        l2=STRENGTHS,
        output=tmp_path / "cut",
        on_iteration=lambda record: next(calls) == stop,
        **given,
    ).fit()
    assert cut.stopped
    again = SubsetTrainer.resume(tmp_path / "cut", dataset=data())
    assert path_of(again) == path_of(whole)
    for own, reference in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(own, reference)
    assert again.result["cost"]["by_purpose"] == whole.result["cost"]["by_purpose"]


def test_what_follows_has_the_chosen_strength(tmp_path: Path) -> None:
    """Reference: the gradient of the objective of all training rows with that strength, built apart."""
    run = trainer(handoff="full", handoff_epochs=300, output=tmp_path / "run").fit()
    chosen, train = path_of(run)["chosen"], data().train
    scaled = data().normalization
    x = (train.inputs - torch.tensor(scaled.mean, dtype=torch.float64)) / torch.tensor(scaled.std, dtype=torch.float64)
    objective = Objective(FlatModel(run.model, dtype=torch.float64), x, train.targets, l2=chosen)
    loss, gradient = objective.value_and_gradient(objective.initial())
    assert float(gradient.abs().max()) < 1e-6 and run.result["objective"] == pytest.approx(float(loss), rel=1e-9)
    certificate = verify_run(tmp_path / "run", dataset=data(), on="subset")
    assert certificate.content()["l2"] == chosen


def test_files_say_what_was_found(tmp_path: Path) -> None:
    run = trainer(output=tmp_path / "run").fit()
    with (tmp_path / "run" / "l2_path.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["l2"]) for row in rows] == sorted(STRENGTHS, reverse=True)
    assert [row["l2"] for row in rows if row["chosen"] == "1"] == [str(path_of(run)["chosen"])]
    assert (tmp_path / "run" / "l2_path.png").read_bytes().startswith(b"\x89PNG")


def test_a_limit_leaves_the_best_of_what_was_found() -> None:
    run = trainer(solver_epochs=4).fit()
    found = path_of(run)
    assert run.result["phases"][0]["stop_reason"] == "budget" and 1 <= len(found["minima"]) <= 3
    assert run.result["cost"]["epoch_equivalents"] <= 4 * (1 + 1e-9)
    known = [minimum["held_out_loss"] for minimum in found["minima"]]
    assert found["best"] == known.index(min(known))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"l2": "1e-3,nan"}, "finite numbers from 0"),
        ({"l2": [1e-3, -1]}, "finite numbers from 0"),
        ({"l2": "1e-3,x"}, "several separated by commas"),
        ({"l2": []}, "finite numbers from 0"),
        ({"l2": True}, "True"),
        ({"l2": STRENGTHS, "grow": 2}, "exclude each other"),
        ({"l2": STRENGTHS, "subsets": 2}, "exclude each other"),
        ({"l2": STRENGTHS, "solver": "none"}, "full-batch solver"),
        ({"l2": STRENGTHS, "solver": "kfac-stream"}, "full-batch solver"),
        ({"l2": STRENGTHS, "validation_fraction": 0}, "held-out"),
    ],
)
def test_what_has_no_path_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SubsetTrainer("linear", "digits", **given).fit()
    assert "l2" in str(caught.value) and "\n" not in str(caught.value)
