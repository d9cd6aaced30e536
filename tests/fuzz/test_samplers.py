"""Random sizes, settings and losses: whatever a sampler accepts, its proposals keep the contract, to the last row.

250 examples in CI, 4000 with `-m slow`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subsetopt.errors import UserError
from subsetopt.samplers import SAMPLERS, Scan, as_torch_sampler, make_sampler
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.last_layer import residuals
from subsetopt.seeding import make_generator

NAMES = [entry.name for entry in SAMPLERS]
CLASSES, FEATURES = 3, 4
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=4),
    st.integers(-3, 3),
    st.just(float("nan")),
    st.just([0.1]),
    st.floats(-2, 2),
)
CHOICES = {
    "variant": ["jiang", "composer"],
    "correction": ["none", "importance", "self-normalised"],
    "codes": ["inputs", "features"],
    "hash": ["srp", "p-stable"],
    "estimator": ["sketch", "exact"],
    "score": ["loss", "gradient"],
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A sampler by name with mostly sensible settings, now and then one of the wrong kind."""
    name = draw(st.sampled_from(NAMES))
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(SAMPLERS.get(name).Settings):
        if draw(st.booleans()) or (field.name == "beta" and "fraction" in chosen):
            continue
        if draw(st.integers(0, 29)) == 29:
            chosen[field.name] = draw(ODD)
        elif field.name in CHOICES:
            chosen[field.name] = draw(st.sampled_from(CHOICES[field.name]))
        elif field.default is True or field.default is False:
            chosen[field.name] = draw(st.booleans())
        elif isinstance(field.default, int) or field.name == "total_steps":
            chosen[field.name] = draw(st.integers(1, 12))
        else:
            chosen[field.name] = draw(st.floats(0.001, 1.0))
    n = draw(st.integers(1, 150))
    sizes = {"n_samples": n, "batch_size": draw(st.one_of(st.integers(1, max(1, n // 3)), st.integers(1, 160)))}
    return {
        "name": name,
        **sizes,
        "seed": draw(st.integers(0, 99)),
        "drop_last": draw(st.integers(0, 3)) == 3,
        **chosen,
    }


def drive(sampler: QueueSampler, n: int, steps: int, seed: int) -> list[list[int]]:
    """Run the loop of the protocol and check every batch; return the rows of each proposal."""
    generator = make_generator(seed, "fuzz")
    features, targets = torch.randn(n, FEATURES, generator=generator), torch.arange(n) % CLASSES
    probabilities = torch.randn(n, CLASSES, generator=generator).softmax(1)
    losses = -probabilities.gather(1, targets[:, None])[:, 0].log()
    losses[torch.rand(n, generator=generator) < 0.05] = 0.0
    scan = Scan(residuals(probabilities, targets), features, targets)
    if sampler.needs_data:
        sampler.bind(features)
    proposed = []
    for _ in range(steps):
        if sampler.scan_due:
            sampler.refresh(scan, scan)
        batch = sampler.propose()
        rows = batch.indices
        proposed.append(rows.tolist())
        if sampler.selection_due:
            selected = sampler.select(batch, losses[rows], probabilities[rows], features[rows], targets[rows])
            if selected is None:
                continue
            batch, rows = selected, selected.indices
        assert rows.dtype == torch.int64 and rows.ndim == 1
        assert 1 <= len(rows) <= sampler.batch_size
        assert int(rows.min()) >= 0 and int(rows.max()) < n
        if batch.weights is not None:
            assert batch.weights.shape == rows.shape
            assert bool((batch.weights >= 0).all()) and bool(batch.weights.isfinite().all())
        sampler.observe(rows, losses[rows], probabilities[rows], features[rows], targets[rows])
    return proposed


def check(request: dict[str, Any]) -> None:
    try:
        sampler = make_sampler(**request)
    except UserError as error:
        assert "\n" not in str(error)
        return
    n, steps = request["n_samples"], sampler.steps_per_epoch
    opening, promised = sampler.opening, sampler.steps_per_epoch
    first = drive(sampler, n, 1, request["seed"])
    assert len(first[0]) == opening[0] or sampler.needs_scan, "a coreset may turn out smaller than asked for"
    if not (sampler.needs_scan or sampler.needs_selection_forward or request["drop_last"]):
        sizes = [len(first[0]), *map(len, drive(sampler, n, min(steps - 1, 40), request["seed"]))]
        assert max(sizes) - min(sizes) <= 1 and math.ceil(sampler.epoch_rows / promised) == max(sizes)
    saved = sampler.state_dict()
    again = make_sampler(**request)
    again.load_state_dict(saved)
    assert drive(again, n, 5, 1) == drive(sampler, n, 5, 1), "resume is exact"
    face = as_torch_sampler(make_sampler(**request))
    assert all(batch for batch in face)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(requests())
def test_what_is_accepted_keeps_the_contract(request: dict[str, Any]) -> None:
    check(request)


@pytest.mark.slow  # 4000 examples take minutes
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests())
def test_what_is_accepted_keeps_the_contract_at_length(request: dict[str, Any]) -> None:
    check(request)
