"""The stream against formulas, against itself in two pieces, and against first-order training at equal cost."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from subsetopt.data import Dataset, dataset_from_arrays, load_dataset
from subsetopt.errors import SettingError
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.factor import FEW, RANK
from subsetopt.seeding import make_generator
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.kfac_stream.fresh_subsets import StreamCursor
from subsetopt.training.phases.kfac_stream.noise import ENOUGH, TRUST
from subsetopt.training.phases.kfac_stream.output_change import TRIALS, UNMEASURED
from subsetopt.training.phases.kfac_stream.phase import StreamPhase, StreamState
from subsetopt.training.phases.kfac_stream.settings import Guard, stream_settings
from subsetopt.training.phases.kfac_stream.stepping import OF_LOSS
from subsetopt.training.preparation import prepare
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

GROWING = {"subset_min": 128, "subset_max": 1000}
"""Subsets of given sizes, whatever the noise."""


class Running(NamedTuple):
    phase: StreamPhase
    data: TrainingData
    budget: Budget
    run: RunContext
    state: StreamState

    def steps(self, number: int) -> None:
        for _ in range(number):
            if self.phase.terminate(self.state) is None:
                self.phase.step(self.state)


def made(n: int = 700) -> Dataset:
    generator = make_generator(0, "rows")
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, :3] + 0.3 * torch.randn(n, 3, generator=generator)).argmax(1)
    return dataset_from_arrays(x, y)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def begin(module: nn.Module | None = None, dataset: Dataset | None = None, **settings: Any) -> Running:
    epochs = settings.pop("epochs", 3.0)
    given = {"solver": "kfac-stream", "handoff": "none", "solver_epochs": epochs, "solver_args": settings}
    data, budget, run = prepare(make_config(given), module or net(), dataset or made())
    phase = StreamPhase(run.config.phases()[0], data, budget, run)
    budget.ledger.open_phase(phase.config.epochs)
    return Running(phase, data, budget, run, phase.start(run.model.flat.initial()))


def gone_on(whole: Running, again: Running, steps: int, lacks: tuple[str, ...] = (), more: int = 1000) -> StreamState:
    """Let both take `more` steps, `again` from a checkpoint of `whole` after `steps` without numbers of these names."""
    whole.steps(steps)
    tensors, numbers = copy.deepcopy(whole.phase.save(whole.state))
    for name in [name for name in numbers if name.startswith(lacks)] if lacks else []:
        del numbers[name]
    ledger = whole.budget.ledger.save()
    whole.steps(more)
    state = again.phase.restore(tensors, numbers)
    again.budget.ledger.restore(ledger)
    again._replace(state=state).steps(more)
    assert state.iterations == whole.state.iterations and torch.equal(state.w, whole.state.w)
    return state


@pytest.mark.parametrize("caution", [1.0, 0.25])
def test_a_step_is_the_damped_natural_gradient_shortened_to_the_trust_bound(caution):
    running = begin(nn.Sequential(nn.Linear(6, 3)), momentum=0.0, trust=1e-3, draw="empirical", **GROWING)
    phase, state = running.phase, running.state
    state.caution, state.change.trials = caution, 0
    before = state.w.clone()
    running.steps(1)
    rows = torch.randperm(phase.samples, generator=make_generator(0, "0:solve:order:0"))[: state.place.position]
    inputs, targets = running.data.trained(SplitName.TRAIN)
    w = before.clone().requires_grad_()
    outputs = running.run.model.flat.forward(w, running.data.preprocess(inputs[rows]), "eval")
    l2 = running.run.config.l2
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, targets[rows]) + l2 / 2 * (w @ w), w)
    # The share spent before the step is that of the factors; the size of the subset, and damping with it, follow it.
    size = phase._settings.size(state.estimate_cost / 3.0)
    damping = phase._settings.step_damping(phase._spectrum(), size) / caution**2
    direction = phase._kfac.apply(gradient, damping)
    step = state.w - before
    torch.testing.assert_close(torch.nn.functional.normalize(-step, dim=0), nn.functional.normalize(direction, dim=0))
    foreseen = float(phase._kfac.product(step) @ step)
    assert foreseen * UNMEASURED == pytest.approx(phase._settings.trust, rel=1e-3)
    assert state.change.step == pytest.approx(foreseen, rel=1e-4)


def two_classes() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def rare(share: float, n: int = 1200) -> Dataset:
    """Two classes, one of them this share of the samples."""
    generator = make_generator(1, "rows")
    x = torch.randn(n, 6, generator=generator)
    score = x @ torch.ones(6) + 0.5 * torch.randn(n, generator=generator)
    return dataset_from_arrays(x, (score > score.quantile(1.0 - share)).long())


def changed(running: Running, w: torch.Tensor, rows: torch.Tensor) -> float:
    """The change of the outputs of these rows from w to the present parameters: mean of dz'H dz, by definition."""
    inputs, _ = running.data.trained(SplitName.TRAIN)
    x, flat = running.data.preprocess(inputs[rows]), running.run.model.flat
    before, after = (flat.forward(point, x, "deterministic").double() for point in (w, running.state.w))
    total, p = 0.0, before.softmax(1)
    for d, q in zip(after - before, p, strict=True):
        total += float(d @ (torch.diag(q) - q.outer(q)) @ d)
    return total / len(rows)


def test_the_first_steps_are_tried_and_shortened_to_their_bound():
    """A bound so far above what F foresees that the steps overshoot: they end where the outputs change by the bound."""
    running, free = begin(two_classes(), rare(0.05), trust=0.05), begin(two_classes(), rare(0.05), trust=0.05)
    free.state.change.trials = 0
    over = []
    for number in range(TRIALS + 4):
        for each in (running, free):
            each.state.change.seen, each.state.change.foreseen = 1e-3, 1.0  # a ratio far below the true one
            before, watched = each.state.w.clone(), each.state.change.rows
            each.steps(1)
            rows = each.state.change.rows if len(each.state.change.rows) else watched
            over.append((each is running, number, changed(each, before, rows)))
    tried = [change for mine, number, change in over if mine and number < TRIALS]
    assert running.state.change.trials == 0 and max(tried) < 0.08, "0.05, but for changes that are not quadratic"
    assert max(change for mine, number, change in over if not mine and number < TRIALS) > 0.2
    assert free.state.change.trials == 0


def test_the_loss_bounds_steps_where_a_class_is_rare_and_the_loss_has_a_floor():
    """The bound is a share of the running loss, but not for a bound that was given, nor for a loss of the user's."""
    running = begin(two_classes(), rare(0.02))
    state, rules = running.state, running.phase._stepping
    state.guard.mean, state.noise.measured, state.noise.signal = 0.05, ENOUGH, 1.0
    assert rules.trust(state, 100) == pytest.approx(OF_LOSS * 0.05) and state.noise.trust(100) == TRUST
    state.guard.mean = 2.0
    assert rules.trust(state, 100) == TRUST
    state.guard.mean = 0.05
    assert begin(two_classes(), rare(0.02), trust=0.3).phase._stepping.trust(state, 100) == 0.3
    state.by_loss = False
    assert rules.trust(state, 100) == TRUST, "a stream of the version before"
    state.by_loss = True
    state.guard.mean = -0.05
    assert rules.trust(state, 100) == TRUST, "BCE with targets beyond 1"
    state.guard.mean = 0.05
    own = replace(rules, has_floor=False)
    assert own.trust(state, 100) == TRUST


def test_every_sample_is_seen_once_per_pass():
    running = begin()
    phase, state, seen = running.phase, running.state, []
    while state.place.epoch == 0:
        seen.append(phase._subsets.next_rows(state.place, 60))
        state.place.position += len(seen[-1])
    first = torch.cat(seen[:-1])
    assert sorted(first.tolist()) == list(range(phase.samples))
    assert min(len(rows) for rows in seen) >= 45
    state.place = StreamCursor(position=phase.samples - 100)
    halves = []
    while state.place.position < phase.samples:
        halves.append(len(phase._subsets.next_rows(state.place, 60)))
        state.place.position += halves[-1]
    assert halves == [50, 50], "not 60 and 40"
    state.place = StreamCursor(position=phase.samples - 80)
    assert len(phase._subsets.next_rows(state.place, 60)) == 80, "twenty would be left"


@pytest.mark.parametrize("epochs", [0.05, 0.7, 2.0])
def test_the_budget_is_obeyed_to_the_unit(epochs):
    running = begin(epochs=epochs)
    while running.phase.terminate(running.state) is None:
        running.phase.step(running.state)
    ledger = running.budget.ledger
    assert running.phase.terminate(running.state) is (
        StopReason.SCHEDULE_END if running.state.iterations else StopReason.BUDGET
    )
    ledger.limit = math.inf  # as the loop does before it finishes a phase
    running.phase.finish(running.state)
    assert ledger.cost <= epochs * (1 + 1e-9)
    table = ledger.by_purpose()
    assert table.get("train", {"calls": 0})["calls"] == running.state.iterations
    if epochs == 2.0:
        assert ledger.cost > 0.9 * epochs
        assert table["product"]["epoch_equivalents"] < 0.3 * epochs


@pytest.mark.parametrize("module", [None, nn.Sequential(nn.Linear(6, 3))])
def test_a_stream_resumes_in_the_middle_bit_for_bit(module):
    share = {"factor_share": 0.5, "epochs": 6.0, "module": copy.deepcopy(module)}
    whole, cut = begin(**share), begin(**share)
    whole.steps(20)
    cut.steps(9)
    tensors, numbers = copy.deepcopy(cut.phase.save(cut.state))
    buffers, ledger = cut.run.model.flat.buffers(), cut.budget.ledger.save()
    again = begin(**share)
    again.run.model.flat.load_buffers(buffers)
    state = again.phase.restore(tensors, numbers)
    again.budget.ledger.restore(ledger)
    again._replace(state=state).steps(11)
    assert state.iterations == whole.state.iterations == 20
    assert state.noise == whole.state.noise and (module is None or state.noise.measured > 1)
    assert state.estimates == whole.state.estimates > 2
    assert torch.equal(state.w, whole.state.w)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.run.model.flat.buffers().values(), whole.run.model.flat.buffers().values(), strict=True)
    )


@pytest.mark.parametrize(("poison", "norm"), [(1e4, False), (math.nan, True)])
def test_a_poisoned_subset_sends_the_stream_back_to_its_last_good_point(poison, norm):
    running = begin(None if norm else nn.Sequential(nn.Linear(6, 3)), **GROWING)
    running.steps(15)
    state, good = running.state, running.state.good.clone()
    size = running.phase._settings.size(state.budget.share_spent)
    subsets = running.phase._subsets
    rows = subsets.next_rows(state.place, size)
    subsets.inputs[rows] = poison * subsets.inputs[rows]
    buffers = {name: value.clone() for name, value in state.good_buffers.items()}
    running.steps(1)
    assert state.returns == 1
    assert torch.equal(state.w, good)
    found = running.run.model.flat.buffers()
    assert all(torch.equal(found[name], value) for name, value in buffers.items())
    assert float(state.velocity.abs().max()) == 0.0
    assert state.caution == 0.5
    assert len(state.change.outputs) == 0 and state.change.step == 0.0
    running.steps(3)
    assert math.isfinite(state.loss)
    assert state.returns == 1


def test_the_guard_takes_a_lasting_rise_for_the_new_level_but_never_nan():
    guard = Guard()
    assert all(guard.admits(1.0 + 0.1 * (-1) ** i, 0.0) for i in range(20))
    assert [guard.admits(9.0, 0.0) for _ in range(5)] == [False, False, False, True, True]
    assert not any(guard.admits(math.nan, 0.0) for _ in range(20))


def test_jumps_with_good_subsets_between_them_are_no_lasting_rise():
    guard = Guard()
    assert [guard.admits(loss, 0.0) for loss in [1.0] + 5 * [9.0, 1.0]] == [True] + 5 * [False, True]


def test_a_stream_that_never_sees_a_finite_loss_ends_in_words():
    running = begin(nn.Sequential(nn.Linear(6, 3)))
    running.phase._subsets.inputs.fill_(math.nan)
    running.steps(100)
    assert running.phase.terminate(running.state) is StopReason.NON_FINITE
    assert torch.isfinite(running.state.w).all()


def test_the_guard_lets_sampling_noise_pass():
    guard = Guard()
    assert guard.admits(1.0, 0.0)
    assert not guard.admits(2.0, 0.3)
    assert guard.admits(2.0, 0.5)
    assert not guard.admits(40.0, 30.0)


def test_a_measured_subset_has_the_standard_error_of_its_mean_loss():
    running = begin(nn.Sequential(nn.Linear(6, 3)))
    phase, state = running.phase, running.state
    measured = phase._subsets.measure(state.w, state.place, 60, state.random)
    assert not state.w.requires_grad
    rows = torch.randperm(phase.samples, generator=make_generator(0, "0:solve:order:0"))[: state.place.position]
    x, y = phase._subsets.batch(rows)
    each = nn.functional.cross_entropy(running.run.model.flat.forward(state.w, x, "eval"), y, reduction="none")
    l2 = running.run.config.l2 / 2 * float(state.w @ state.w)
    assert float(measured.loss) == pytest.approx(float(each.mean()) + l2, rel=1e-5)
    assert float(measured.error) == pytest.approx(float(each.std(correction=0)) / len(rows) ** 0.5, rel=1e-5)


def test_settings_move_as_documented():
    settings = stream_settings(GROWING, 10**6)
    assert (settings.size(0.0), settings.size(1.0)) == (128, 1000)
    assert settings.size(0.5) == round(math.sqrt(128 * 1000))
    assert settings.step_rate(0.25) == pytest.approx(0.75 * settings.rate)
    spectrum = KfacSpectrum.of(torch.logspace(-4, 1, 50_000, dtype=torch.float64))
    for share in (0.0, 1.0):
        damping = settings.step_damping(spectrum, settings.size(share))
        assert spectrum.directions(damping) == pytest.approx(settings.directions * settings.size(share), rel=1e-6)
    assert stream_settings(GROWING, 3200).size(1.0) == 100
    small = stream_settings(GROWING, 64)
    assert small.size(0.0) >= 2
    assert small.factor_samples == 16 < stream_settings({"factor_samples": 50}, 64).factor_samples == 50


@pytest.mark.parametrize(("name", "value"), [("rate", -1), ("subset_max", 64), ("rtae", 1), ("draw", "none")])
def test_bad_settings_are_refused_before_any_work(name, value):
    with pytest.raises(SettingError, match=name):
        begin(**{name: value})


def test_a_subset_in_chunks_gives_the_gradient_of_the_whole():
    running = begin(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    subsets, state = running.phase._subsets, running.state
    whole = subsets.measure(state.w, StreamCursor(chunk=running.phase.samples), 60, state.random)
    in_chunks = subsets.measure(state.w, StreamCursor(chunk=17), 60, state.random)
    torch.testing.assert_close(in_chunks, whole, rtol=1e-5, atol=1e-6)  # float32; chunks add up in another order


def test_batch_normalisation_sees_whole_subsets_whatever_the_chunk_size():
    running = begin()
    assert running.phase._subsets.chunk() == running.phase.samples


def test_running_statistics_at_the_end_are_those_of_samples_at_the_last_parameters():
    """Mean and unbiased variance by hand, of the inputs to the norm layer; averages over subsets are not these."""
    running = begin(epochs=1.0)
    running.steps(1000)
    phase, budget, run, state = running.phase, running.budget, running.run, running.state
    averages = run.model.flat.buffers()
    budget.ledger.limit = math.inf
    phase.finish(state)
    rows = torch.randperm(phase.samples, generator=make_generator(0, "0:solve:statistics"))[: state.statistics]
    assert len(rows) == int(0.03 / budget.ledger.price("forward", 1))
    x, _ = phase._subsets.batch(rows)
    weight, bias = run.model.flat.views(state.w)[:2]
    inner = x @ weight.T + bias
    buffers = run.model.flat.buffers()
    torch.testing.assert_close(buffers["1.running_mean"], inner.mean(0))
    torch.testing.assert_close(buffers["1.running_var"], inner.var(0))
    assert not torch.allclose(averages["1.running_var"], inner.var(0), rtol=0.05)


def test_too_few_samples_for_statistics_leave_the_averages():
    running = begin(epochs=0.3)
    running.steps(1000)
    averages = running.run.model.flat.buffers()
    running.phase.finish(running.state)
    assert running.state.statistics == 0 and running.state.iterations > 0
    assert all(torch.equal(value, averages[name]) for name, value in running.run.model.flat.buffers().items())


def test_a_misspelt_name_suggests_the_stream():
    with pytest.raises(SettingError, match="did you mean 'kfac-stream'"):
        train(make_config({"solver": "kfac-steam"}), keep=False)


def test_defaults_beat_untuned_first_order_training_on_digits_with_fewer_calls():
    data = load_dataset("digits", data_dir=None, data_file=None, validation_fraction=0.1, seed=0, normalize="auto")

    def trained(**settings: Any) -> dict[str, Any]:
        config = make_config({"max_epochs": 3, **settings})
        return train(config, dataset=data, keep=False, splits=("test",)).result

    stream = trained(solver="kfac-stream", handoff="none")
    for optimizer, rate in (("sgd", 0.05), ("adam", 1e-3)):
        other = trained(solver="none", handoff=optimizer, handoff_lr=rate, handoff_epochs=3)
        assert stream["metrics"]["test"]["loss"] < 0.7 * other["metrics"]["test"]["loss"]
    assert stream["solve"]["sequential_calls"] == stream["solve"]["iterations"] + stream["solve"]["estimates"]


def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_the_halves_of_a_subset_make_its_whole():
    running = begin(plain())
    subsets, state = running.phase._subsets, running.state
    whole = subsets.measure(state.w, StreamCursor(), 61, state.random)
    parted = subsets.measure(state.w, StreamCursor(), 61, state.random, halves=True)
    assert parted.samples == whole.samples == 61 and parted.first == 31 / 61
    torch.testing.assert_close(parted[:3], whole[:3], rtol=1e-5, atol=1e-6)
    rows = torch.randperm(running.phase.samples, generator=make_generator(0, "0:solve:order:0"))[:31]
    x, y = subsets.batch(rows)
    w = state.w.clone().requires_grad_()
    loss = nn.functional.cross_entropy(running.run.model.flat.forward(w, x, "eval"), y)
    (gradient,) = torch.autograd.grad(loss + running.run.config.l2 / 2 * (w @ w), w)
    torch.testing.assert_close(parted.halves[0], gradient, rtol=1e-5, atol=1e-6)


def test_a_step_measures_its_noise_and_carries_its_inertia():
    """<g1, M^-1 g2> and |g|^2 in M^-1 against solves of their own; v'Fv of every step against the product itself."""
    running = begin(plain(), epochs=20.0)
    phase, state = running.phase, running.state
    for _ in range(12):
        before, measured, spectrum = copy.deepcopy(state), state.noise.measured, phase._spectrum()
        updates = phase._kfac.updates
        running.steps(1)
        product = float(phase._kfac.product(state.velocity) @ state.velocity)
        assert state.curvature == pytest.approx(product, rel=1e-3)
        if state.noise.measured == measured or phase._kfac.updates != updates:
            continue
        size = phase._stepping.size(before.noise, before.budget, before.budget.share_spent)
        found = phase._subsets.measure(before.w, before.place, size, before.random, halves=True)
        damping = phase._stepping.damping(spectrum, size, before)
        first, second = (phase._kfac.apply(half, damping) for half in found.halves)
        before.noise.learn(float(found.halves[0] @ second), float(found.gradient @ (first + second)) / 2, found.samples)
        assert state.noise.signal == pytest.approx(before.noise.signal, rel=1e-2, abs=1e-5)
        assert state.noise.noise == pytest.approx(before.noise.noise, rel=1e-2)
    assert state.noise.measured > 3


def test_factors_that_leave_few_steps_are_named():
    wide = nn.Sequential(nn.Linear(6, 200), nn.Tanh(), nn.Linear(200, 3))
    running = begin(wide, epochs=6.0)
    running.steps(1000)
    running.phase.finish(running.state)
    (said,) = (text for text in running.run.warnings if "first-order" in text)
    assert f"steps taken: {running.state.iterations}," in said and running.state.iterations < 10
    cheap = begin(plain(), epochs=6.0)
    cheap.steps(1000)
    cheap.phase.finish(cheap.state)
    assert not any("first-order" in text for text in cheap.run.warnings)


def test_trials_of_the_first_step_are_bounded_by_their_share():
    for epochs, trials in ((0.5, 1), (50.0, 3)):
        running = begin(plain(), epochs=epochs)
        running.phase._estimate(running.state)
        assert running.phase._stepping.trials(running.state.budget) == trials


def test_measuring_noise_keeps_to_its_share_of_the_cost():
    running = begin(plain(), epochs=6.0)
    running.steps(1000)
    noise, spent = running.state.noise, running.budget.ledger.cost
    assert 0 < noise.cost < 0.05 * spent + 2 * noise.cost / noise.measured
    fixed = begin(plain(), epochs=6.0, momentum=0.5, trust=0.07, **GROWING)
    fixed.steps(1000)
    assert fixed.state.noise.measured == 0


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_a_loss_times_a_number_takes_the_same_steps(scale):
    """Regression targets and outputs times c: the loss is c^2 times as large, and all steps come back to scale."""
    generator = make_generator(3, "rows")
    x = torch.randn(500, 6, generator=generator)
    y = torch.tanh(x[:, :2]) + 0.1 * torch.randn(500, 2, generator=generator)
    losses = []
    for factor in (1.0, scale):
        model = nn.Linear(6, 2)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        data = dataset_from_arrays(x, factor * y, normalize="none")
        running = begin(model, data, epochs=4.0)
        running.steps(12)
        losses.append(running.state.loss / factor**2)
    assert losses[0] < 0.5 * float(y.square().mean())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_checkpoint_of_an_earlier_version_goes_on_by_the_constants_it_knew():
    """Its numbers have no noise; the steps are those of a stream with these constants and a product in every step."""
    fixed = {"momentum": 0.5, "trust": 0.07, "rate": 0.12, **GROWING, "epochs": 6.0}
    whole, again = begin(plain(), **fixed), begin(plain(), epochs=6.0)
    whole.state.carried = False
    state = gone_on(whole, again, 6, ("noise.", "least.", "curvature", "carried"), more=8)
    assert state.iterations == 14 and state.noise.measured == 0


@pytest.mark.parametrize("given", [{}, {"rate": 0.3}])
def test_a_checkpoint_without_evidence_for_damping_goes_on_by_directions_alone(given):
    """That of the version before: smaller subsets, rate 0.12 unless it was given, damping without a bound."""
    whole, again = begin(plain(), **{"rate": 0.12, **given}, epochs=6.0), begin(plain(), **given, epochs=6.0)
    whole.state.noise.of_critical, whole.state.least.known = 0.7, False
    state = gone_on(whole, again, 6, ("least.", "noise.of_critical"), more=20)
    assert state.iterations > 6 and state.noise.measured > 1
    assert again.phase.details()["rate"] == given.get("rate", 0.12)


@pytest.mark.parametrize("steps", [0, 8])
def test_a_checkpoint_that_knows_no_population_goes_on_as_with_infinitely_many_samples(steps):
    """That of the version before: no correction, eight times the noise foreseen, and no plateau."""
    whole, again, new = (begin(plain(), epochs=8.0) for _ in range(3))
    whole.state.noise.population, whole.state.plateau.known = 0, False
    state = gone_on(whole, again, steps, ("plateau.", "noise.population"))
    assert state.iterations > 8 and state.noise.measured > 1 and state.plateau.factor == 1.0
    new.steps(1000)
    assert not torch.equal(new.state.w, whole.state.w), "one that begins now is corrected"


@pytest.mark.parametrize("steps", [0, 8])
def test_a_checkpoint_without_trials_goes_on_as_it_began(steps):
    """That of the version before: no step is tried, the loss bounds none, and means of noise are as measured."""
    whole, again, new = (begin(plain(), epochs=8.0) for _ in range(3))
    whole.state.change.trials, whole.state.by_loss, whole.state.noise.rescaled = 0, False, False
    whole.state.noise.of_root = 0.0
    state = gone_on(whole, again, steps, ("change.trials", "by_loss", "noise.rescaled", "noise.of_root"))
    assert state.iterations > 8
    new.steps(1000)
    assert not torch.equal(new.state.w, whole.state.w)


@pytest.mark.parametrize(("epochs", "long"), [(2.0, False), (3.0, False), (4.0, True), (8.0, True)])
def test_streams_of_more_than_three_passes_go_by_other_rules(epochs, long):
    state = begin(plain(), epochs=epochs).state
    noise = state.noise
    assert (noise.rescaled, noise.population > 0, state.plateau.known) == (long, long, long)
    assert (noise.of_root, state.by_loss, state.change.trials) == (0.25, True, 8), "in streams of any length"


def dear(epochs: float = 24.0, **settings: Any) -> Running:
    """A stream whose products with whole factors would cost as much as hundreds of samples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3))
    return begin(module, epochs=epochs, **settings)


def test_dear_factors_keep_few_eigenvectors_and_leave_more_steps():
    few, whole = dear(subset_min=16, subset_max=64), dear(subset_min=16, subset_max=64)
    whole.state.by_price = False
    for running in (few, whole):
        running.steps(1000)
    assert few.phase._kfac.vectors == FEW and whole.phase._kfac.vectors == RANK
    assert few.phase._kfac.product_flops < 0.6 * whole.phase._kfac.product_flops
    assert few.state.iterations > 1.3 * whole.state.iterations
    cheap = begin(plain())
    cheap.steps(1)
    assert cheap.phase._kfac.vectors == RANK, "its products cost less than a small subset"


@pytest.mark.parametrize("steps", [0, 6])
@pytest.mark.parametrize("by_price", [True, False])
def test_a_stream_with_dear_factors_resumes_bit_for_bit_with_those_it_had(by_price, steps):
    """A checkpoint without the rule, as earlier versions wrote it, goes on with whole factors."""
    whole, again = dear(), dear()
    whole.state.by_price = by_price
    state = gone_on(whole, again, steps, () if by_price else ("by_price",))
    assert state.iterations > 6 and state.estimates > 1 and again.budget.ledger.cost == whole.budget.ledger.cost
    assert again.phase._kfac.vectors == (FEW if by_price else RANK)


def test_columns_that_are_rarely_different_from_zero_get_damping_that_makes_noise_as_foreseen():
    """The factors' samples miss them: by directions alone noise is many times what F foresees."""
    generator = make_generator(4, "rows")
    x = torch.zeros(3000, 60)
    x[:, :5] = torch.randn(3000, 5, generator=generator)
    x[:, 5:] = (torch.rand(3000, 55, generator=generator) < 0.004).float()
    y = (x[:, :5].sum(1) + torch.randn(3000, generator=generator) > 0).long()
    excess, losses = [], []
    for known in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 2))
        running = begin(module, dataset_from_arrays(x[:2000], y[:2000], x[2000:], y[2000:]), epochs=2.0)
        phase, state = running.phase, running.state
        state.least.known = known
        running.steps(4)
        damping = phase._stepping.damping(phase._spectrum(), 100, state)
        excess.append(state.noise.noise / phase._spectrum().traces(damping)[0])
        running.steps(1000)
        test = running.data.dataset.test
        outputs = running.run.model.flat.forward(state.w, running.data.preprocess(test.inputs), "eval")
        losses.append(float(nn.functional.cross_entropy(outputs, test.targets)))
    assert excess[1] < 0.5 * excess[0]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"trust": "much"}, "trust = much: unknown"),
        ({"subset_min": 2000}, "subset_min = 2000: is above subset_max = 1000; lower it, or raise subset_max"),
        ({"subset_max": 64}, "subset_max = 64: is below subset_min = 128; raise it"),
        ({"momentum": 1.0}, "momentum = 1.0: is out of range"),
    ],
)
def test_settings_that_may_be_automatic_are_checked(given, problem):
    with pytest.raises(SettingError) as refused:
        begin(**given)
    assert problem in str(refused.value).replace("'", "")


def test_automatic_settings_can_be_written_out():
    names = ("subset_min", "subset_max", "trust", "momentum")
    assert stream_settings(dict.fromkeys(names, "auto"), 1000) == stream_settings({}, 1000)
