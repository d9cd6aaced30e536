"""What every registered sampler promises, whatever its method."""

import inspect
import json
import random

import numpy as np
import pytest
import torch

from subsetopt.errors import SettingError
from subsetopt.samplers import SAMPLERS, Batch, Sampler, Seen, card, default_settings, make_sampler
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.factory import CARD_SECTIONS

NAMES = [entry.name for entry in SAMPLERS]
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("selective-backprop", {"variant": "composer"}),
    ("selective-backprop", {"stale_epochs": 3, "p_min": 0.1, "correction": "self-normalised"}),
    ("p-sgd", {"correction": "importance"}),
    ("c-sgd", {"correction": "self-normalised", "replacement": True}),
    ("nw-sketch", {"codes": "features", "hash": "p-stable", "score": "gradient", "query_every": 2}),
    ("nw-sketch", {"estimator": "exact", "query_every": 2}),
    ("gradmatch", {"scan_period": 1}),
]
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings in VARIANTS]


def same(a, b):
    if a is None or b is None:
        return a is b
    return torch.equal(a.indices, b.indices) and (
        (a.weights is None and b.weights is None) or torch.equal(a.weights, b.weights)
    )


def test_the_samplers_of_the_papers_are_registered():
    assert set(NAMES) == {
        "full",
        "fixed-subset",
        "random-weighted",
        "rs2",
        "srs",
        "random-minibatch",
        "selective-backprop",
        "gradient-matching",
        "p-sgd",
        "c-sgd",
        "nw-sketch",
        "gradmatch",
        "craig",
        "glister",
    }


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("cut", [0, 7, 23])
def test_a_resumed_sampler_continues_bit_identically(name, settings, cut, problem, bound, loop):
    """Reference: the same sampler uninterrupted. The state travels through JSON apart from its tensors."""
    reference = bound(name, problem, **settings)
    loop(reference, problem, cut)
    state = {
        k: v if isinstance(v, torch.Tensor) else json.loads(json.dumps(v)) for k, v in reference.state_dict().items()
    }
    resumed = make_sampler(name, len(problem.targets), 8, seed=0, **settings)
    resumed.load_state_dict(state)
    expected = loop(reference, problem, 40)
    continued = loop(resumed, problem, 40)
    assert all(same(a, b) for a, b in zip(expected, continued, strict=True))
    assert reference.statistics() == resumed.statistics()
    left, right = reference.state_dict(), resumed.state_dict()
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert (
            torch.equal(value, right[key]) or value.isnan().any()
            if isinstance(value, torch.Tensor)
            else value == right[key]
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_does_not_change_with_the_sampler(name, problem, bound, loop):
    sampler = bound(name, problem)
    loop(sampler, problem, 5)
    state = sampler.state_dict()
    before = {key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)}
    loop(sampler, problem, 20)
    assert all(torch.equal(value.nan_to_num(), state[key].nan_to_num()) for key, value in before.items())


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_proposals_are_valid_rows_with_finite_non_negative_weights(name, settings, problem, bound, loop):
    for batch in loop(bound(name, problem, **settings), problem, 40):
        if batch is None:
            continue
        indices, weights = batch
        assert indices.dtype == torch.int64 and 1 <= len(indices) <= 8
        assert indices.min() >= 0 and indices.max() < len(problem.targets)
        if weights is not None:
            assert weights.dtype == torch.float32 and weights.shape == indices.shape
            assert weights.isfinite().all() and (weights >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generators_are_untouched(name, problem, bound, loop):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - the very thing
    loop(bound(name, problem), problem, 30)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002 - watched here
    assert before[2] == random.getstate()


@pytest.mark.parametrize("name", NAMES)
def test_repeats_with_other_seeds_draw_other_batches_and_the_same_seed_draws_the_same(name, problem, bound, loop):
    first, again, other = (loop(bound(name, problem, seed=seed), problem, 12) for seed in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not all(same(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_takes_the_steps_it_says(name, problem, bound, loop):
    sampler = bound(name, problem)
    loop(sampler, problem, 1)
    loop(sampler, problem, sampler.steps_per_epoch - 1)
    assert sampler.epoch == 0
    loop(sampler, problem, 1)
    assert sampler.epoch == 1


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_json_and_count_what_was_trained_on(name, problem, bound, loop):
    """Reference: the batches themselves."""
    sampler = bound(name, problem)
    trained = [batch for batch in loop(sampler, problem, 30) if batch is not None]
    statistics = json.loads(json.dumps(sampler.statistics()))
    rows = torch.cat([batch.indices for batch in trained])
    assert statistics["unique_samples"] == len(rows.unique())
    assert statistics["trained_samples"] == len(rows) and statistics["batches"] == len(trained)
    shares = [
        1.0 if w is None else float(w.sum() ** 2 / (len(w) * (w**2).sum()))
        for w in (batch.weights for batch in trained)
    ]
    assert statistics["effective_batch_share"] == pytest.approx(sum(shares) / len(shares), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_every_section_and_names_every_setting(name):
    text = card(name)
    positions = [text.index(f"## {section}\n") for section in CARD_SECTIONS]
    assert positions == sorted(positions)
    bodies = [part.split("\n", 1)[1].strip() for part in text.split("## ")[1:]]
    assert len(bodies) == len(CARD_SECTIONS) and all(bodies)
    settings = text[positions[2] : positions[3]]
    for setting, default in default_settings(name).items():
        shown = f'"{default}"' if isinstance(default, str) else None if default is None else str(default)
        assert f"`{setting}` (" in settings
        value = settings.split(f"`{setting}` (")[1].split(")")[0]
        assert value == shown or value == str(default) or float(value) == default


@pytest.mark.parametrize("name", ["gradient-matching", "nw-sketch"])
def test_methods_known_only_from_a_description_say_reconstruction(name):
    assert "Reconstruction" in card(name)


@pytest.mark.parametrize("name", NAMES)
def test_samplers_fulfil_the_protocol(name):
    sampler: Sampler = make_sampler(name, 50, 8)
    promised = [attribute for attribute in vars(Sampler) if not attribute.startswith("_")]
    assert all(hasattr(sampler, attribute) for attribute in promised)
    assert sampler.granularity in ("epoch", "batch")
    assert sampler.needs <= {"losses", "probabilities", "features"}
    assert sampler.needs_scan == (sampler.scan_period is not None)


@pytest.mark.parametrize("name", NAMES)
def test_drop_last_proposes_full_batches_only(name, problem, bound, loop):
    sampler = bound(name, problem, drop_last=True)
    loop(sampler, problem, 1)
    sizes = {len(sampler.propose().indices) for _ in range(25)}
    assert sizes == {sampler.rows_per_proposal}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sr", {}, "did you mean 'srs'"),
        ("srs", {"fractoin": 0.1}, "did you mean 'fraction'"),
        ("full", {"fraction": 0.1}, "has no such setting; it has none"),
        ("rs2", {"fraction": 0}, "fraction = 0: is out of range; give a number above 0 and at most 1"),
        ("rs2", {"fraction": 1.5}, "fraction = 1.5"),
        ("rs2", {"fraction": "abc"}, "fraction = 'abc'"),
        ("rs2", {"fraction": float("nan")}, "fraction = nan"),
        ("rs2", {"fraction": True}, "fraction = True"),
        ("selective-backprop", {"beta": 2.0, "fraction": 0.5}, "beta = 2.0"),
        ("selective-backprop", {"correction": "importance"}, "p_min = 0.0"),
        ("selective-backprop", {"variant": "compose"}, "did you mean 'composer'"),
        ("selective-backprop", {"start": 0.9, "end": 0.5}, "end = 0.5"),
        ("p-sgd", {"correction": "importnace"}, "did you mean 'importance'"),
        ("p-sgd", {"replacement": "yes"}, "replacement = 'yes'"),
        ("nw-sketch", {"mixing": 0.0}, "mixing = 0.0"),
        ("nw-sketch", {"repetitions": 0}, "repetitions = 0"),
        ("gradmatch", {"scan_period": 0}, "scan_period = 0"),
        ("glister", {"eta": -1.0}, "eta = -1.0"),
        ("full", {"drop_last": True}, "batch_size = 500"),
    ],
)
def test_settings_are_checked_before_step_zero_in_one_line(name, settings, message):
    """Peers' sampler fault 9."""
    with pytest.raises(SettingError, match=message) as caught:
        make_sampler(name, 100, 500 if "drop_last" in settings else 10, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [(0, 8), (50, 0), (50, 2.5), ("fifty", 8)])
def test_counts_are_checked(counts):
    with pytest.raises(SettingError, match=r"n_samples|batch_size"):
        make_sampler("full", *counts)


def test_the_state_of_another_sampler_is_refused():
    state = make_sampler("srs", 50, 8).state_dict()
    with pytest.raises(SettingError, match="name"):
        make_sampler("rs2", 50, 8).load_state_dict(state)
    with pytest.raises(SettingError, match="n_samples"):
        make_sampler("srs", 51, 8).load_state_dict(state)


class Recorder(QueueSampler):
    """Keeps what it was shown."""

    name = "recorder"
    needs_selection_forward = True

    def draw_block(self):
        return Batch(torch.arange(self.n_samples))

    def learn(self, seen):
        self.learnt = seen

    def keep(self, batch, seen):
        self.offered = seen
        return batch


def test_observe_and_select_as_users_call_them_reach_the_sampler_as_one_record():
    sampler = Recorder(4, 2, 0, torch.device("cpu"), None)
    losses, p, h, y, shares = torch.ones(2), torch.full((2, 3), 1 / 3), torch.zeros(2, 5), torch.tensor([0, 2]), None
    batch = sampler.propose()
    assert sampler.select(batch, losses.requires_grad_(), p, targets=y) is batch
    offered = sampler.offered
    assert offered.indices is batch.indices and not offered.losses.requires_grad
    assert offered.probabilities is p and offered.features is None and offered.targets is y
    sampler.observe(batch.indices, losses, p, h)
    assert sampler.learnt == Seen(batch.indices, losses, p, h)
    sampler.observe(batch.indices, losses, targets=y, weights=shares)
    assert sampler.learnt == Seen(batch.indices, losses, None, None, y, shares)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_takes_what_a_user_s_loop_gives(name):
    observe = inspect.signature(make_sampler(name, 20, 5, 0).observe)
    assert list(observe.parameters) == ["indices", "losses", "probabilities", "features", "targets", "weights"]
    observe.bind(torch.arange(5), torch.ones(5))
