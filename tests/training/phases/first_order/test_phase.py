"""The SGD loop against torch's own optimizers in a plain loop, and what it promises of cost, seeds and stops."""

import math
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.data import dataset_from_arrays
from subsetopt.errors import SettingError
from subsetopt.objective.host import observe_reads
from subsetopt.samplers import SAMPLERS, make_sampler
from subsetopt.seeding import derive_seed
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.phases.first_order.phase import FirstOrderPhase
from subsetopt.training.phases.first_order.schedules import rate_factor
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

NAMES = [entry.name for entry in SAMPLERS if entry.name != "full"] + ["sgd"]
CHEAP = {"nw-sketch": {"repetitions": 4}}  # hashing 432 inputs 384 times costs more than training so small a model
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.01),
    "adamw-coupled": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-3),
}
SETTINGS = {
    "sgd": {"handoff": "sgd"},
    "sgd-nesterov": {"handoff": "sgd", "handoff_nesterov": True, "handoff_momentum": 0.8},
    "adam": {"handoff": "adam"},
    "adamw": {"handoff": "adamw"},
    "adamw-coupled": {"handoff": "adamw", "handoff_coupled_l2": True},
}


def plain_loop(data, model, kind, *, epochs, schedule, smoothing, clip, seed=0):
    """What a user of torch would write, on the same batches; returns the flat parameters and the losses."""
    inputs, targets = data.trained(SplitName.TRAIN)
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    peak, n, losses = optimizer.param_groups[0]["lr"], len(targets), []
    sampler = make_sampler("full", n, 16, seed=derive_seed(seed, "0:handoff:full"))
    seen, steps = 0, math.floor(epochs * math.ceil(n / 16))
    for _ in range(steps):
        rows = sampler.propose().indices
        optimizer.param_groups[0]["lr"] = peak * rate_factor(schedule, seen / n / epochs)
        optimizer.zero_grad()
        loss = cross_entropy(model(data.preprocess(inputs[rows])), targets[rows], label_smoothing=smoothing)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        seen += len(rows)
        losses.append(float(loss.detach()))
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), losses


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("smoothing", "clip", "schedule"), [(0.0, None, "cosine"), (0.1, 0.05, "one-cycle")])
def test_the_trajectory_is_that_of_torch_in_a_plain_loop(kind, smoothing, clip, schedule, begin, net):
    """Reference: torch.optim on the module's own parameters, clip_grad_norm_, and cross_entropy's label smoothing."""
    running = begin(
        net(),
        dtype="float64",
        handoff_label_smoothing=smoothing,
        handoff_clip_norm=clip,
        handoff_schedule=schedule,
        **SETTINGS[kind],
    )
    state = running.finish()
    expected, losses = plain_loop(
        running.data, net().double(), kind, epochs=3, schedule=schedule, smoothing=smoothing, clip=clip
    )
    assert state.iterations == len(losses)
    assert torch.allclose(state.w.detach(), expected, rtol=1e-10, atol=1e-12)
    penalty = 0.0 if kind == "adamw" else 0.5e-3 * float(expected.square().sum())
    assert state.loss == pytest.approx(losses[-1] + penalty, rel=1e-9), "one step per record on so few steps"
    assert not torch.allclose(expected, running.run.model.flat.initial(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_spent_and_never_exceeded(name, begin):
    """A batch of 16 is a tenth of the 162 rows, and no selection step costs more than a batch in and a batch out."""
    running = begin(handoff=name, handoff_epochs=2.5, handoff_args=CHEAP.get(name, {}))
    scan = (162 + 18) * running.budget.ledger.prices["forward"] / 162
    running.finish()
    assert running.budget.ledger.cost <= 2.5 * (1 + 1e-9)
    assert running.budget.ledger.cost > 2.5 - 2 * 16 / 162 - (scan if running.phase._sampler.needs_scan else 0)
    assert running.state.stopped is StopReason.SCHEDULE_END


def test_the_budget_of_the_run_ends_a_phase_that_wanted_more(begin):
    running = begin(handoff_epochs=3, max_epochs=1)
    running.finish()
    assert running.state.stopped is StopReason.BUDGET
    assert 0.9 < running.budget.ledger.cost <= 1 + 1e-9


def test_the_rate_ends_with_the_budget(begin):
    """A linear schedule at the last of s steps has all but the last step's cost behind it; steps have 15 or 14 rows."""
    running = begin(handoff_schedule="linear", handoff_lr=1.0)
    running.finish()
    assert running.state.optimizer.rate == pytest.approx(14 / 162 / 3), "14 rows are the last"


def test_equal_seeds_give_equal_runs_and_other_seeds_other_batches(begin):
    def after(seed, index=0):
        running = begin(seed=seed, handoff="rs2")
        phase = FirstOrderPhase(running.phase.config, running.data, running.budget, running.run, index)
        return phase._sampler.propose().indices.tolist()

    assert after(0) == after(0)
    assert after(0) != after(1)
    assert after(0, index=0) != after(0, index=1), "two phases of one run"


@pytest.mark.parametrize("augmentation", ["none", "randaugment"])
def test_the_global_generators_are_untouched_and_without_effect(augmentation, begin, net):
    def train():
        running = begin(net(dropout=0.3), handoff_augmentation=augmentation, handoff_epochs=1)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - watched
        running.finish()
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002 - watched here
        assert before[2] == random.getstate()
        return running.state.w.detach()

    first = train()
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        assert torch.equal(first, train())


def test_amp_computes_in_bfloat16_and_keeps_float32_parameters(begin):
    exact, coarse = (begin(handoff_amp=amp, handoff_epochs=1).finish() for amp in (False, True))
    assert coarse.w.dtype == torch.float32
    assert not torch.equal(exact.w, coarse.w)
    assert coarse.loss == pytest.approx(exact.loss, rel=0.02), "bfloat16 has 8 bits"


def overfitting():
    """Few rows and random labels: the training loss falls, the held-out loss only at first."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 20, generator=generator)
    return dataset_from_arrays(inputs, torch.randint(0, 2, (80,), generator=generator), validation_fraction=0.3)


def test_early_stopping_ends_the_phase_and_keeps_the_best_checked_parameters(begin):
    model = torch.nn.Sequential(
        torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.ReLU(), torch.nn.Linear(30, 2)
    )
    running = begin(model, overfitting(), handoff_epochs=200, handoff_stop_at="validation", handoff_schedule="constant")
    losses = []
    test = running.phase._checks.test
    inner = test.held_out_loss
    test.held_out_loss = lambda w: losses.append(inner(w)) or losses[-1]
    state = running.finish()
    assert state.stopped is StopReason.VALIDATION
    assert running.budget.ledger.cost < 200
    outcome = running.phase.finish(state)
    assert running.run.model.evaluate(running.data, outcome.w, SplitName.VALIDATION)["loss"] == min(losses) < losses[-1]
    spent = running.budget.ledger.by_purpose()["selection"]
    assert spent["calls"] == len(losses), "every look is charged"
    assert spent["epoch_equivalents"] <= 0.06 * running.budget.ledger.cost + 0.2


@pytest.mark.parametrize("epochs", [0.5, 2, 7])
def test_checks_of_held_out_data_stay_within_the_budget(epochs, begin):
    running = begin(handoff_epochs=epochs, handoff_batch_size=4, handoff_stop_at="validation")
    state = running.finish()
    running.budget.ledger.open_phase(epochs - running.budget.ledger.cost)
    running.phase.finish(state)
    assert 0.6 * epochs < running.budget.ledger.cost <= epochs * (1 + 1e-9)


def test_a_loss_that_is_no_longer_finite_ends_the_phase(begin):
    running = begin(handoff_lr=1e30)
    running.finish()
    assert running.state.stopped is StopReason.NON_FINITE


def test_composers_window_lies_within_the_budgeted_steps(begin):
    running = begin(handoff="selective-backprop", handoff_args={"variant": "composer", "start": 0.5, "end": 0.9})
    selected = []
    inner = running.phase._sampler.select

    def watch(batch, *rest):
        selected.append(running.budget.ledger.cost / 3)
        return inner(batch, *rest)

    running.phase._sampler.select = watch
    running.finish()
    assert 0.4 < min(selected) < 0.55 and 0.8 < max(selected) < 0.92


class Synchronisations(TorchDispatchMode):
    """Counts what makes a host wait for a device: `host_read`s, other scalars, results whose size depends on data."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self._reads = observe_reads(self._read)

    def __enter__(self):
        self._reads.__enter__()
        return super().__enter__()

    def __exit__(self, *failure):
        self._reads.__exit__(*failure)
        return super().__exit__(*failure)

    def _read(self):
        self.count += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_waits_for_the_device_once_at_most(name, begin):
    running = begin(handoff=name, handoff_epochs=30, handoff_args=CHEAP.get(name, {}))
    batch, state = running.phase._mini_batch, running.state
    for _ in range(40):
        scanning = running.phase._sampler.scan_due
        with Synchronisations() as seen:
            batch.gradient(state.w, state.augmentation)
        assert scanning or seen.count <= (name == "selective-backprop")


def test_a_record_of_many_steps_reads_one_scalar(begin):
    running = begin(handoff_epochs=300)
    with Synchronisations() as seen:
        running.phase.step(running.state)
    assert seen.count == 1 and running.state.iterations > 10


REFUSED = [
    ({"handoff_nesterov": True, "handoff_momentum": 0}, "Nesterov momentum needs momentum above 0"),
    ({"handoff_stop_at": "validation", "validation_fraction": 0}, "handoff_stop_at='validation' needs held-out data"),
    ({"handoff_stop_at": "noise"}, "handoff_stop_at = 'noise'"),
    ({"phase": [{"method": "sgd", "epochs": 1, "stop_at": "noise"}]}, "use stop_at = validation"),
    ({"handoff_amp": True, "dtype": "float64"}, "float64 parameters are never autocast"),
    ({"handoff": "nw-sketch", "handoff_args": {"repetitions": 64}}, "preparing it .hashing.* costs .*repetitions=8"),
    ({"handoff": "nw-sketch", "handoff_args": {"estimator": "exact"}}, "preparing it .comparing .*estimator=sketch"),
    ({"handoff": "rs2", "handoff_args": {"fractoin": 0.1}}, "did you mean 'fraction'"),
    ({"handoff": "srss"}, "did you mean 'srs'"),
    ({"handoff_augmentation": "standart"}, "did you mean 'standard'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line_before_step_zero(settings, message, begin):
    with pytest.raises(SettingError, match=message) as caught:
        begin(**settings)
    assert "\n" not in str(caught.value)


def test_held_out_data_that_a_data_set_lacks_are_asked_for(begin, images):
    bare = dataset_from_arrays(images.train.inputs, images.train.targets, validation_fraction=0)
    for settings in ({"handoff_stop_at": "validation"}, {"handoff": "glister"}):
        with pytest.raises(SettingError, match="needs held-out data"):
            begin(dataset=bare, **settings)


@pytest.mark.parametrize("sampler", ["gradient-matching", "p-sgd", "c-sgd", "craig"])
def test_samplers_of_classes_refuse_regression(sampler):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data, budget, run = prepare(
        make_config({"solver": "none", "handoff": sampler, "dataset": "digits"}),
        torch.nn.Linear(4, 1),
        dataset_from_arrays(x, x.sum(1)),
    )
    with pytest.raises(SettingError, match="class probabilities"):
        FirstOrderPhase(run.config.phases()[-1], data, budget, run)


def test_a_batch_of_one_row_is_refused_with_batch_norm_only(begin, net):
    begin(net(), handoff_batch_size=1)
    with pytest.raises(SettingError, match="BatchNorm needs two"):
        begin(net(norm=True), handoff_batch_size=1)
