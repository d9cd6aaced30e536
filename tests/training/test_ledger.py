"""The ledger: exact arithmetic of charges, budgets that stop before the call, and exact restoration."""

import json

import pytest

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.objective.tally import note_flops
from subsetopt.training.ledger import Ledger

PRICES = {"forward": 1 / 3, "gradient": 1.0, "linearise": 1.5, "hvp": 2.0, "ggnvp": 1.25}


def test_one_gradient_over_all_samples_is_one_epoch_equivalent():
    ledger = Ledger(600, PRICES)
    ledger.charge("gradient", 600, "train")
    assert ledger.cost == 1.0


def test_cost_is_the_priced_sum_by_hand():
    ledger = Ledger(1000, PRICES)
    ledger.charge("gradient", 500, "train")
    ledger.charge("gradient", 250, "line_search")
    ledger.charge("hvp", 250, "product")
    ledger.charge("forward", 300, "selection")
    assert ledger.cost == pytest.approx(0.5 + 0.25 + 0.5 + 0.1)
    table = ledger.by_purpose()
    assert table["product"] == {"epoch_equivalents": 0.5, "samples": 250, "calls": 1}
    assert sum(row["epoch_equivalents"] for row in table.values()) == pytest.approx(ledger.cost)


def test_evaluation_is_shown_apart_and_never_refused():
    ledger = Ledger(100, PRICES, budget=0.5)
    ledger.charge("forward", 10_000, "evaluation")
    assert ledger.cost == 0
    assert ledger.evaluation_cost == pytest.approx(100 / 3)


def test_budget_admits_exactly_what_it_says_and_refuses_before_charging():
    ledger = Ledger(3000, PRICES, budget=3)
    for _ in range(3 * 30):
        ledger.charge("gradient", 100, "train")
    with pytest.raises(BudgetExhausted):
        ledger.charge("gradient", 1, "train")
    assert ledger.cost == pytest.approx(3)
    assert ledger.by_purpose()["train"]["calls"] == 90


def test_phase_limit_lies_within_the_budget_of_the_run():
    ledger = Ledger(100, PRICES, budget=3)
    ledger.charge("gradient", 200, "train")
    ledger.open_phase(0.5)
    with pytest.raises(BudgetExhausted):
        ledger.charge("gradient", 51, "train")
    ledger.open_phase(10)
    with pytest.raises(BudgetExhausted):
        ledger.charge("gradient", 101, "train")
    ledger.charge("gradient", 100, "train")


def test_restored_ledger_has_the_same_cost_to_the_last_bit():
    ledger = Ledger(1437, PRICES, budget=7)
    for samples in (3, 129, 1437, 77):
        ledger.charge("gradient", samples, "train")
        ledger.charge("hvp", samples, "product")
    ledger.open_phase(1.3)
    other = Ledger(1437, {}, budget=7)
    other.restore(json.loads(json.dumps(ledger.save())))
    assert (other.cost, other.limit, other.by_purpose()) == (ledger.cost, ledger.limit, ledger.by_purpose())


def test_arithmetic_is_entered_before_the_next_call_which_leaves_room_for_as_much_again():
    """By hand: 100 operations cost 0.1. Of a budget of 1.5 a gradient, its arithmetic and a quarter leave 0.15."""
    ledger = Ledger(100, {**PRICES, "flops": 0.1}, budget=1.5)
    with ledger.arithmetic():
        ledger.charge("gradient", 100, "train")
        note_flops(100)
        assert ledger.cost == 1.0
        ledger.charge("gradient", 25, "train")
        assert ledger.cost == pytest.approx(1.35)
        with pytest.raises(BudgetExhausted):
            ledger.charge("gradient", 10, "train")  # 0.1, and 0.1 for what may follow
        ledger.charge("gradient", 5, "train")
    assert ledger.by_purpose()["arithmetic"] == pytest.approx({
        "epoch_equivalents": 0.1, "samples": 0, "calls": 0, "flops": 100,
    })  # fmt: skip


def test_augmentation_stands_apart_as_evaluation_does():
    ledger = Ledger(100, {**PRICES, "flops": 0.1}, budget=0.5)
    ledger.charge("flops", 10_000, "augmentation")
    assert ledger.cost == 0 and ledger.by_purpose()["augmentation"]["epoch_equivalents"] == pytest.approx(10)


def test_a_run_begun_without_a_price_of_arithmetic_goes_on_without():
    ledger = Ledger(100, {**PRICES, "flops": 0.1})
    ledger.restore({"prices": PRICES, "limit": None, "entries": []})
    ledger.enter(1000, "arithmetic")
    assert ledger.cost == 0
