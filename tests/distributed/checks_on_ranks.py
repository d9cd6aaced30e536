"""What every one of three ranks checks: shared work against the same work of a process on its own, in the same process.

Run by `test_ranks.py`; an assertion that fails on any rank fails the test.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from subsetopt import distributed, model_loss
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.data.checks import checked_inputs
from subsetopt.distributed import ProcessRanks, RankFailedError, RankLostError, Ranks
from subsetopt.errors import DataError, SettingError
from subsetopt.inputs import LazyRows, Parts
from subsetopt.objective import Objective, evaluate_split
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver, minimize
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.batch_sharing import REPLICATED
from subsetopt.training.phases.drawn.phase import DrawnPhase
from subsetopt.training.phases.first_order.phase import FirstOrderPhase
from subsetopt.training.phases.kfac_stream.phase import StreamPhase
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.solver import SolverPhase
from subsetopt.training.phases.subsets.minima import SubsetMinimum
from subsetopt.training.phases.subsets.phase import SubsetsPhase, SubsetsState
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

K, D, M = 100, 6, 3  # 100 is no multiple of 3
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64)


def samples() -> tuple[Tensor, Tensor]:
    x = draw("x", K, D)
    return x, (x @ draw("truth", D, M)).argmax(1)


def network(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), *extra, nn.Tanh(), nn.Linear(8, M)).double()


def check_a_part_of_the_processes(ranks: Ranks) -> None:
    pair = dist.new_group([1, 2])
    if ranks.rank:
        two = ProcessRanks(pair)
        check_objective(two)
        check_draws_by_residual(two)
        assert (two.rank, two.size, two.broadcast(ranks.rank)) == (ranks.rank - 1, 2, 1)


def check_collectives(ranks: Ranks) -> None:
    own = torch.full((3,), float(ranks.rank))
    scalar = torch.tensor(0.5, dtype=torch.float64)
    ranks.sum_(own, scalar)
    assert own.tolist() == [3.0] * 3 and float(scalar) == 1.5
    start, stop = ranks.share(K)
    assert torch.equal(ranks.gather_rows(torch.arange(start, stop), K), torch.arange(K))
    assert ranks.broadcast({"rank": ranks.rank, "x": 0.1}) == {"rank": 0, "x": 0.1}
    assert ranks.agree(ranks.rank == 2, False, figure=float("nan")) == [True, False]
    assert ranks.together(lambda: 7) == 7
    assert ranks.gather(["x" * ranks.rank, 0.1]) == [["", 0.1], ["x", 0.1], ["xx", 0.1]]
    sent = {"a": torch.tensor(0.1), "b": torch.arange(6).view(2, 3).T, "none": torch.zeros(0, 2), "f": torch.eye(2) > 0}
    told = ranks.broadcast_tensors(sent if ranks.rank == 2 else {}, 2)
    assert {name: t.dtype for name, t in told.items()} == {name: t.dtype for name, t in sent.items()}
    assert all(torch.equal(told[name], tensor) for name, tensor in sent.items())
    assert ranks.broadcast_tensors({}, 1) == {} and ranks.broadcast(ranks.rank, 1) == 1


def check_a_mistake_on_one_rank_ends_all(ranks: Ranks) -> None:
    def work() -> None:
        if ranks.rank == 1:
            raise DataError("x: not here")

    try:
        ranks.together(work)
    except DataError as error:
        assert ranks.rank == 1 and str(error) == "x: not here"
    except RankFailedError as error:
        assert ranks.rank != 1 and str(error) == "rank 1: x: not here"
    else:
        raise AssertionError("nobody was told")


def objectives(ranks: Ranks, *extra: nn.Module, **settings: object) -> tuple[Objective, Objective]:
    x, y = samples()
    shared, alone = (Objective(network(*extra), x, y, l2=1e-2, ranks=each, **settings) for each in (ranks, Ranks()))
    return shared, alone


def check_objective(ranks: Ranks) -> None:
    kinds: list[tuple[tuple[nn.Module, ...], dict[str, object]]] = [
        ((), {}),
        ((), {"indices": torch.arange(0, K, 2), "chunk_size": 7}),
        ((), {"track_noise": True}),
        ((), {"sample_weight": torch.arange(K) % 4, "chunk_size": 7}),
        ((), {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double(), ignore_index=1)}),
        ((), {"loss": model_loss(lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))}),
        ((nn.BatchNorm1d(8),), {"chunk_size": 16}),
        ((), {"linearisation_memory": 2**13, "chunk_size": 8}),
    ]
    for extra, settings in kinds:
        shared, alone = objectives(ranks, *extra, **settings)
        assert shared.identity == alone.identity and shared.n_samples == alone.n_samples
        assert sum(b - a for a, b in shared.edges) < alone.n_samples, "a rank keeps its part alone"
        w, v = shared.initial() + 0.1, draw("v", shared.size)
        torch.testing.assert_close(shared.value(w), alone.value(w), **EXACT)
        for one, other in zip(shared.value_and_gradient(w), alone.value_and_gradient(w), strict=True):
            torch.testing.assert_close(one, other, **EXACT)
        here, there = shared.linearise(w), alone.linearise(w)
        torch.testing.assert_close(here.hvp(v), there.hvp(v), **EXACT)
        torch.testing.assert_close(here.ggnvp(v), there.ggnvp(v), **EXACT)
        assert shared.meter.samples["gradient"] == alone.meter.samples["gradient"]
        if settings.get("track_noise"):
            torch.testing.assert_close(shared.gradient_noise, alone.gradient_noise, rtol=1e-10, atol=0)
    total = torch.tensor([float(shared.meter.samples["linearise"]), float(alone.meter.samples["linearise"])])
    assert total[0] == total[1] == 2 * K, "recorded, or recorded anew: each sample once per kind of product"
    assert 0 < here.stored_chunks("hvp") < len(shared.edges), "part of the graphs, so that both ways were taken"


def check_residuals(ranks: Ranks) -> None:
    x, _ = samples()
    terms = {"a": (lambda model, x: model(x)[:, :2], x[:70]), "b": (lambda model, x: model(x).square(), x[70:], 3.0)}
    settings = {"indices": torch.arange(0, K, 2), "chunk_size": 7}
    shared, alone = (Objective.from_residual(network(), terms, ranks=each, **settings) for each in (ranks, Ranks()))
    w, v = shared.initial() + 0.1, draw("v", shared.size)
    assert shared.identity == alone.identity
    for one, other in zip(shared.value_and_gradient(w), alone.value_and_gradient(w), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    torch.testing.assert_close(shared.linearise(w).ggnvp(v), alone.linearise(w).ggnvp(v), **EXACT)


def check_several_inputs_and_rows_that_are_read(ranks: Ranks) -> None:
    """Each rank has its own rows of every input, and reads no others where they are not in memory."""
    x, y = samples()
    whole = Parts([x, torch.arange(K).unsqueeze(1)], ["x", "number"])
    read: set[int] = set()

    def rows(wanted: list[int]) -> Parts:
        read.update(wanted)
        return whole[torch.tensor(wanted)]

    lazy = LazyRows(rows, torch.arange(K), whole[:1], limit=0)
    alone = Objective(Numbered(), {"x": x, "number": whole.tensors[1]}, y, l2=1e-3)
    w = alone.initial()
    expected, gradient = alone.value_and_gradient(w)
    for given in (whole, lazy):
        shared = Objective(Numbered(), given, y, l2=1e-3, ranks=ranks, chunk_size=7)
        read.clear()
        loss, own = shared.value_and_gradient(w)
        torch.testing.assert_close(loss, expected, **EXACT)
        torch.testing.assert_close(own, gradient, **EXACT)
        if given is lazy:
            start, stop = shared.samples.span
            assert read == set(range(start, stop)) and len(read) < K


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = network()

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        return self.body(x) * torch.cos(number)


def check_too_few_samples_are_refused(ranks: Ranks) -> None:
    x, y = samples()
    for settings in ({"indices": [0, 1]}, {"chunk_size": 50, "track_noise": False}):
        model = network(nn.BatchNorm1d(8)) if "chunk_size" in settings else network()
        try:
            Objective(model, x, y, ranks=ranks, **settings)
        except SettingError as error:
            assert "use at most 2" in str(error), error
        else:
            raise AssertionError("a rank without work")


def check_solvers(ranks: Ranks) -> None:
    shared, alone = objectives(ranks)
    sampled = {"curvature": "ggn", "sample_share": 0.3, "preconditioner": "kfac", "factor_share": 0.02}
    around = {"preconditioner": "kfac"}
    for method, settings in (("lbfgs", {}), ("lbfgs", around), ("newton-cg", sampled), ("newton-cg", {})):
        a, b = (minimize(f, method=method, gtol=0.0, max_iterations=20, **settings) for f in (shared, alone))
        assert abs(a.loss - b.loss) <= 1e-10 * b.loss, (method, a.loss, b.loss)
        assert shared.meter.samples == alone.meter.samples, (method, settings)
    alike = torch.tensor([a.loss, -a.loss], dtype=torch.float64)
    dist.all_reduce(alike, op=dist.ReduceOp.MAX)
    assert alike[0] == -alike[1], "bit for bit on all ranks"


class Patches(nn.Module):
    """A convolution with more positions than are looked at, a norm, and a parameter that has no factors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.norm, self.linear = nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, M)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(self.convolution(x)).tanh().mean((2, 3)) * self.scale)
        return out


def check_curvature_of_a_part(ranks: Ranks) -> None:
    """Products and factors on a random part of the samples: two of them leave a rank without any."""
    x, y = draw("images", K, 1, 14, 14), samples()[1]
    shared, alone = (Objective(Patches().double(), x, y, l2=1e-2, chunk_size=7, ranks=r) for r in (ranks, Ranks()))
    w, v = shared.initial() + 0.1, draw("v", shared.size)
    for share in (0.02, 0.37):
        here, there = (each.part(share, make_generator(3, "part")) for each in (shared, alone))
        for kind in ("hvp", "ggnvp"):
            one, other = (getattr(part.linearise(w), kind)(v) for part in (here, there))
            torch.testing.assert_close(one, other, **EXACT)
        for kind in ("curvature", "labels", "empirical"):
            factors = [Kfac(each.flat, each.loss, draw=kind) for each in (shared, alone)]
            draws = [make_generator(4, "draws") for _ in factors]
            for part, estimate, generator in zip((here, there), factors, draws, strict=True):
                part.update(estimate, w, generator)
            assert torch.equal(*(generator.get_state() for generator in draws)), "also where nothing was to be drawn"
            torch.testing.assert_close(factors[0].product(v), factors[1].product(v), rtol=1e-10, atol=1e-13)
    assert shared.meter.samples == alone.meter.samples
    assert ranks.gather(len(here.edges) > 0) == [True] * 3 and here.n_samples == 37


def check_curvature_that_one_process_alone_can_have(ranks: Ranks) -> None:
    for model, solver_args, said in (
        (network(), {"preconditioner": "diagonal"}, "use kfac or none"),
        (network(nn.BatchNorm1d(8)), {"sample_share": 0.5}, "use 1, or one process"),
    ):
        settings = {"solver": "newton-cg", "solver_args": solver_args, "chunk_size": 8, "subset_frac": 0.5}
        data, budget, run = prepare(make_config(settings), model.float(), data_set(), ranks)
        try:
            SolverPhase(run.config.phases()[0], data, budget, run)
        except SettingError as error:
            assert said in str(error), error
        else:
            raise AssertionError("not refused")


def check_streams_of_subsets(ranks: Ranks) -> None:
    for model in (network(), network(nn.Dropout(0.5))):
        ends = []
        for each in (ranks, Ranks()):
            config = make_config({"solver": "kfac-stream", "dtype": "float64", "solver_epochs": 9.0, "handoff": "none"})
            data, budget, run = prepare(config, model, data_set(), each)
            phase = StreamPhase(config.phases()[0], data, budget, run)
            budget.ledger.open_phase(9.0)
            state = phase.start(run.model.flat.initial())
            while phase.terminate(state) is None:
                state = phase.step(state)
            ends.append((state.w, state.iterations, budget.ledger.by_purpose(), run.warnings))
        (one, steps, cost, notes), (other, expected, price, _) = ends
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        assert steps == expected > 3 and cost == price and (REPLICATED in notes) == (len(model) == 4)


def check_draws_by_residual(ranks: Ranks) -> None:
    """Rounds whose evaluations solve for the output layer, which takes the samples of all ranks."""
    for weights in (None, torch.linspace(0.5, 1.5, K, dtype=torch.float64)):
        ends = []
        for each in (ranks, Ranks()):
            around = {"preconditioner": "kfac" if weights is None else "none"}
            settings = {"subset_draw": "residual", "draw_start": 0.0, "draw_evaluations": 3, "draw_share": 0.3}
            settings |= {"solver_args": around, "chunk_size": 7}
            config = make_config({**settings, "dtype": "float64", "handoff": "none"})
            x, y = samples()
            torch.manual_seed(1)
            model = network(nn.Tanh(), nn.Linear(8, 8))
            data, budget, run = prepare(config, model, dataset_from_arrays(x, y, sample_weight=weights), each)
            phase = DrawnPhase(config.phases()[0], data, budget, run)
            assert phase._objectives.layer is not None
            state, rows = phase.start(run.model.flat.initial()), []
            for _ in range(10):
                state = phase.step(state)
                rows.append(phase._objectives.draw(state).rows.tolist() if not state.whole else [])
            ends.append((phase.finish(state).w, rows, state.history, budget.ledger.by_purpose()))
        (one, drawn, _, cost), (other, expected, history, price) = ends
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)  # of rounding, after some 60 steps in all
        assert drawn == expected and len(history) >= 2 and cost == price


def check_spread_curvature_pairs(ranks: Ranks) -> None:
    shared, alone = objectives(ranks)
    states = []
    for objective, spread in ((shared, True), (alone, False)):
        solver = make_solver("lbfgs", memory=5, shard_memory=spread)
        state = solver.init(objective, objective.initial())
        for step in range(20):
            state = solver.step(objective, state)
            if step == 12:
                tensors, _ = solver.save(state)
                if spread:
                    assert state.memory.rows.numel() <= 12 * math.ceil(alone.size / 3)
                    gathered = tensors
                    continue
                if ranks.main:
                    torch.testing.assert_close(gathered["memory.rows"], tensors["memory.rows"], rtol=1e-6, atol=1e-9)
        states.append(state)
    assert abs(states[0].loss - states[1].loss) <= 1e-10 * states[1].loss
    spread, rows = make_solver("lbfgs", memory=5, shard_memory=True), states[1].memory.rows
    again = spread.restore(shared, *make_solver("lbfgs", memory=5).save(states[1]))
    start, stop = ranks.share(alone.size)
    assert torch.equal(again.memory.rows, rows[:, start:stop])
    for gradient in (states[1].gradient, torch.linspace(-1, 1, alone.size, dtype=torch.float64)):
        for s in (again, states[1]):
            s.memory.meet(gradient)
        one, other = (s.memory.apply(gradient, float(gradient @ gradient))[0] for s in (again, states[1]))
        torch.testing.assert_close(one, other, **EXACT)


def check_each_rank_reads_its_own_rows(ranks: Ranks) -> None:
    x = samples()[0].clone()
    x[-1, 0] = math.nan
    try:
        checked_inputs(x, "x", ranks)
    except DataError as error:
        assert ranks.rank == 2 and "first nan at [99, 0]" in str(error), error
    else:
        assert ranks.rank != 2
    data, _, run = prepare(make_config({"dtype": "float64", "subset_frac": 0.5}), network(), data_set(), ranks)
    objective = run.model.objective(data, SplitName.SUBSET)
    objective.value_and_gradient(objective.initial())
    run.model.evaluate(data, objective.initial(), SplitName.SUBSET)
    assert "_drawn" not in vars(data), "the whole subset has been copied"
    start, stop = ranks.share(len(data.subset))
    own = data.preprocess(data.dataset.train.inputs[data.subset][start:stop])
    assert torch.equal(objective.samples.data.inputs(0, stop - start), own)


def check_evaluation(ranks: Ranks) -> None:
    shared, alone = objectives(ranks)
    x, y = samples()
    w = shared.initial()
    for rows in (slice(None), slice(2)):
        one, other = (evaluate_split(alone.flat, w, x[rows], y[rows], ranks=each) for each in (ranks, Ranks()))
        assert abs(one["loss"] - other["loss"]) <= 1e-12 and one["accuracy"] == other["accuracy"]


def data_set() -> Dataset:
    x, y = samples()
    return dataset_from_arrays(x, y, validation_fraction=0.2)


def trained(ranks: Ranks, model: nn.Module, **settings: object) -> tuple[Tensor, float, list[str]]:
    config = make_config({"dtype": "float64", "seed": 3, "subset_frac": 0.5})
    data, budget, run = prepare(config, model, data_set(), ranks)
    phase_settings = {"method": "sgd", "data": "full", "epochs": 3, "batch_size": 16, **settings}
    phase = FirstOrderPhase(make_config({"phase": [phase_settings]}).phase[0], data, budget, run)
    budget.ledger.open_phase(3.0)
    state = phase.start(run.model.flat.initial())
    while phase.terminate(state) is None:
        phase.step(state)
    return state.w.detach(), budget.ledger.cost, run.warnings


def of_pair(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none") + model(x).square().mean(1)


def check_a_run_whose_loss_calls_the_model(ranks: Ranks) -> None:
    found = []
    for each in (ranks, Ranks()):
        config = make_config({"dtype": "float64", "subset_frac": 0.5})
        data, _, run = prepare(config, network(), samples(), each, loss=of_pair)
        objective = run.model.objective(data, SplitName.SUBSET)
        w = objective.initial()
        measured = [run.model.evaluate(data, w, split) for split in (SplitName.TRAIN, SplitName.VALIDATION)]
        found.append([*objective.value_and_gradient(w), *(torch.tensor(list(part.values())) for part in measured)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def check_first_order(ranks: Ranks) -> None:
    plain = network()
    for settings in (
        {"sampler": "full"},
        {"sampler": "p-sgd"},
        {"sampler": "selective-backprop", "sampler_settings": {"fraction": 0.5}},
        {"sampler": "nw-sketch", "sampler_settings": {"codes": "features"}},
        {"sampler": "gradmatch"},
        {"sampler": "full", "stop_at": "validation", "method": "adam"},
    ):
        (one, cost, notes), (other, price, _) = (trained(each, plain, **settings) for each in (ranks, Ranks()))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=str(settings))
        assert cost == price and REPLICATED not in notes
    for model in (network(nn.BatchNorm1d(8)), network(nn.Dropout(0.5))):
        (one, _, notes), (other, _, _) = (trained(each, model) for each in (ranks, Ranks()))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert REPLICATED in notes


def subsets_phase(ranks: Ranks, subsets: int, **settings: object) -> tuple[SubsetsPhase, PreparedRun]:
    model = network(nn.BatchNorm1d(8)) if settings.pop("batch_norm", False) else network()
    common = {"dtype": "float64", "subset_size": 24, "subsets": subsets, "handoff": "none", "l2": 1e-2}
    config = make_config({**common, "validation_fraction": 0.2, **settings})
    prepared = prepare(config, model, data_set(), ranks)
    phase = SubsetsPhase(prepared.run.config.phases()[0], *prepared)
    prepared.budget.ledger.open_phase(None)
    return phase, prepared


def finished(phase: SubsetsPhase, state: SubsetsState) -> tuple[PhaseOutcome, list[SubsetMinimum]]:
    while phase.terminate(state) is None:
        state = phase.step(state)
    return phase.finish(state), [state.done[index] for index in sorted(state.done)]


def check_subsets_are_dealt_out(ranks: Ranks) -> None:
    cases: list[tuple[int, dict[str, object]]] = [
        (2, {"solver_args": {"shard_memory": True}}),
        (3, {"max_epochs": 20.0, "solver": "newton-cg", "solver_args": {"sample_share": 0.5}}),
        (3, {"batch_norm": True, "chunk_size": 8, "subsets_then": "best", "stop_at": "validation"}),
    ]
    for subsets, settings in cases:
        outcomes = []
        for each in (ranks, Ranks()):
            phase, (_, budget, run) = subsets_phase(each, subsets, **settings)
            outcome, minima = finished(phase, phase.start(run.model.flat.initial()))
            outcomes.append((outcome.w, minima, budget.ledger.by_purpose(), run.model.flat.buffers()))
        (w, dealt, cost, buffers), (expected, minima, price, others) = outcomes
        assert torch.equal(w, expected) and [m.record for m in dealt] == [m.record for m in minima], settings
        assert all(torch.equal(one.w, other.w) for one, other in zip(dealt, minima, strict=True))
        assert cost == price, "the whole, as in one process"
        assert all(torch.equal(buffers[name], value) for name, value in others.items())
    try:
        phase, (_, _, run) = subsets_phase(ranks, 3, max_epochs=0.5)
        phase.start(run.model.flat.initial())
    except BudgetExhausted:
        return
    raise AssertionError("a budget that does not admit one evaluation of each")


def check_subset_solves_change_hands(ranks: Ranks) -> None:
    """What any number of ranks has saved, any other goes on with: minima found and solves under way."""
    whole_phase, (_, budget, run) = subsets_phase(Ranks(), 3, subset_size=20)
    whole, _ = finished(whole_phase, whole_phase.start(run.model.flat.initial()))
    for saving, resuming in ((ranks, Ranks()), (Ranks(), ranks)):
        phase, before = subsets_phase(saving, 3, subset_size=20)
        state = phase.start(before.run.model.flat.initial())
        while not state.done or not state.progress:
            state = phase.step(state)
        loss = before.run.model.evaluate(before.data, phase.iterate(state), SplitName.VALIDATION)
        assert ranks.gather(loss) == [loss] * 3, "all ranks look at the same iterate"
        tensors, numbers = phase.save(state)
        assert not saving.main or len(tensors) > 3, "minima and states"
        if saving.size > 1 and not ranks.main:
            continue  # only rank 0 has a file to resume from
        again, after = subsets_phase(resuming, 3, subset_size=20)
        resumed = again.restore(tensors, json.loads(json.dumps(numbers)))
        after.budget.ledger.restore(before.budget.ledger.save())
        assert again.record(resumed) == phase.record(state)
        outcome, _ = finished(again, resumed)
        assert torch.equal(outcome.w, whole.w)
        assert after.budget.ledger.by_purpose()["train"] == budget.ledger.by_purpose()["train"]


def check_ranks_that_drift_apart_are_stopped(ranks: Ranks) -> None:
    try:
        ranks.agree(False, figure=1.0 + 1e-16 * 4 * ranks.rank)
    except RankLostError as error:
        assert "different results" in str(error)
    else:
        raise AssertionError("nobody noticed")


def check_a_rank_that_hangs_ends_the_others(ranks: Ranks) -> None:
    """The last check: rank 2 stops, as a process that hangs does, and is left for the test to kill."""
    group = ProcessRanks(dist.new_group(timeout=timedelta(seconds=3)))
    group.resume_hint = "`subsetopt resume runs/a`"
    if group.rank == 2:
        print("hangs", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    start = time.monotonic()
    try:
        group.sum_(torch.ones(1))
    except RankLostError as error:
        assert "died or hung" in str(error) and str(error).endswith("; `subsetopt resume runs/a`"), error
        assert "\n" not in str(error) and time.monotonic() - start < 30
    else:
        raise AssertionError("nobody missed rank 2")


def main() -> None:
    ranks = distributed.join(timeout=120)
    assert (ranks.rank, ranks.size) == (int(os.environ["RANK"]), 3)
    assert distributed.join(timeout=120) is ranks is distributed.current()
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(ranks)
    print("fine", flush=True)
    os._exit(0)  # with a rank that hangs there is no peaceful end


if __name__ == "__main__":
    main()
