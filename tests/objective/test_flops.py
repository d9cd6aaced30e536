"""Counts of operations: formulas against hand counts, and all counters against each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from subsetopt.objective.flops import count_contractions, count_entries, count_flops
from subsetopt.objective.tally import note_flops, tallied

D = 6
A = torch.randn(D, D, generator=torch.Generator().manual_seed(0))
S = A @ A.T + torch.eye(D)

BY_HAND: dict[str, tuple[Callable[[], object], int]] = {
    "matrix by matrix": (lambda: A @ A, 2 * D**3),
    "matrix by vector": (lambda: A @ A[0], 2 * D**2),
    "inner product": (lambda: A[0] @ A[1], 2 * D),
    "added to a vector": (lambda: torch.addmv(A[0], A, A[1]), 2 * D**2),
    "in place": (lambda: A.clone().addmm_(A, A), 2 * D**3),
    "eigenvectors": (lambda: torch.linalg.eigh(S), 9 * D**3),
    "cholesky": (lambda: torch.linalg.cholesky(S), D**3 // 3),
    "inverse": (lambda: torch.linalg.inv(S), 2 * D**3),
    "solution of one system": (lambda: torch.linalg.solve(S, A[:, :1]), 2 * D**3 // 3 + 2 * D**2),
    "triangular": (lambda: torch.linalg.solve_triangular(S, A, upper=True), D**3),
    "orthonormal columns": (lambda: torch.linalg.qr(A[:, :3]), round(4 * (D * 9 - 9))),
    "entry by entry": (lambda: (A * A).tanh().sum(), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_both_counters_agree_with_the_formula_by_hand(name: str) -> None:
    work, expected = BY_HAND[name]
    assert count_flops(work) == count_contractions(work) == expected


def test_counters_within_counters_see_the_same() -> None:
    """torch's own around ours, and ours around torch's: a method may count while it is counted."""
    with FlopCounterMode(display=False) as outer:
        assert count_flops(lambda: A @ A) == 2 * D**3
        assert count_contractions(lambda: A @ A) == 2 * D**3
    assert outer.get_total_flops() == 4 * D**3


@pytest.mark.parametrize("inference", [False, True])
def test_a_model_costs_what_torchs_own_counter_says(inference: bool) -> None:
    """In inference mode operations arrive whole that are made of others, such as `linear` and `matmul`."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Conv1d(3, 5, 2), nn.Flatten(), nn.Linear(15, 16), nn.Unflatten(1, (2, 8)), layer)
    x = torch.randn(7, 3, 4)

    def work() -> None:
        with torch.inference_mode(inference):
            loss = torch.matmul(model(x), torch.ones(8, 2)).square().sum()
        if not inference:
            loss.backward()

    with FlopCounterMode(display=False) as torchs_own:
        work()
    assert count_flops(work) == torchs_own.get_total_flops() > 0


def test_counting_imports_no_compiler() -> None:
    """In a process of its own: torch's guard against torch.compile would import it, for a second."""
    code = (
        "import sys, torch; from subsetopt.objective.flops import count_flops, count_contractions\n"
        "a = torch.ones(3, 3); count_flops(lambda: a @ a); count_contractions(lambda: a @ a)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_entries_are_results_that_are_no_views() -> None:
    assert count_entries(lambda: (A.T + 1)[0].square()) == D**2 + D


def test_notes_go_to_all_open_tallies_and_nowhere_else() -> None:
    note_flops(5)
    with tallied() as outer:
        note_flops(1)
        with tallied() as inner:
            note_flops(2, host=True)
    note_flops(5)
    assert (outer.flops, outer.host, inner.flops, inner.host) == (3, 2, 2, 2)
