"""Estimates of curvature for `KFAC`: one more backward pass, of noise, through the graph of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from subsetopt.distributed import Ranks
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.layers import Applied, Layer
from subsetopt.objective.sharding import SampleShare
from subsetopt.optim.kfac.blocks import Block, Estimate, State, estimate, fold_diagonal
from subsetopt.optim.kfac.outputs import OutputLoss, OutputRows, curvature_noise, residual_scale, told_loss
from subsetopt.optim.kfac.recorder import LayerRecorder
from subsetopt.seeding import make_generator


class Estimator:
    """Listens to one batch, and folds what it has found into the optimizer's state.

    `loss` is that of the outputs, None until the first gradient tells; `seed` that of the noise.
    """

    def __init__(self) -> None:
        self.loss: OutputLoss | None = None
        self.seed = 0
        self._recorder = LayerRecorder(self._measure)
        self._told: tuple[OutputLoss, bool] | None = None
        self._found: list[Estimate] = []
        self._rows, self._scale, self._step, self._due = 0, 1.0, 0, True
        self._ranks: Callable[[], Ranks] = Ranks

    def listen(self, trained: set[int], step: int, due: bool, ranks: Callable[[], Ranks]) -> None:
        """Have hooks stand where an estimate is due, or the modules of `trained` parameters (ids) are not known yet."""
        self._found, self._step, self._due, self._ranks = [], step, due, ranks
        fresh = self._recorder.renew(trained)
        if due or fresh:
            self._recorder.start()
        else:
            self._recorder.stop()

    def names(self) -> dict[int, str]:
        """Return parameters' names as their modules have them, e.g. `LSTM.weight_ih_l0`."""
        return {key: f"{type(module).__name__}.{name}" for key, ((module, name), *_) in self._recorder.owners.items()}

    def biases(self, states: Mapping[Tensor, State]) -> dict[Tensor, Tensor | None]:
        """Return, of each weight with a block, the bias that is the block's last column, if its module is known."""
        found: dict[Tensor, Tensor | None] = {}
        for weight, state in states.items():
            if "a.moment" in state:
                found[weight] = self._bias_of(weight) if state["bias"] else None
        return found

    def _bias_of(self, weight: Tensor) -> Tensor | None:
        if id(weight) in self._recorder.partners:
            return self._recorder.partners[id(weight)]
        owners = self._recorder.owners.get(id(weight))
        return owners[0][0]._parameters.get("bias") if owners else None

    def take_in(self, states: MutableMapping[Tensor, State], memory: float, ranks: Ranks) -> None:
        """Fold estimates into `states`, over all ranks; nothing changes where a rank has none, or one is not finite."""
        if not self._due:
            return
        gathered = ranks.gather([self._rows if self._found else 0, len(self._found), self._scale])
        found, self._found = self._found, []
        if not found or len({(n > 0, layers) for n, layers, _ in gathered}) > 1:
            return
        total = sum(int(n) for n, _, _ in gathered)
        moments = [moment for each in found for moment in each.moments]
        for moment in moments:
            moment.mul_(self._rows / total)
        ranks.sum_(*moments)
        if not bool(torch.isfinite(torch.stack([moment.sum() for moment in moments])).all()):
            return
        share = SampleShare(total, torch.arange(0, device="cpu"), ranks)
        generator = make_generator(self.seed, f"bases:{self._step}")
        facts = {"estimated": self._step, "rows": total, "scale": sum(n * scale for n, _, scale in gathered) / total}
        with exact_arithmetic(moments[0].device):
            for each in found:
                for state in _fold(each, states, memory, share, generator):
                    state.update(facts)

    def _measure(self, edge: GradientEdge, outputs: Tensor, gradient: Tensor, layers: list[Layer]) -> None:
        """Estimate the moments of `layers` by a backward pass of noise from `edge`, where that is due."""
        if self._found or not self._due or not bool(torch.isfinite(gradient).all()):
            return
        ranks = self._ranks()
        self._told = self._told or told_loss(outputs, gradient)
        loss = self.loss or self._told[0]
        rows = OutputRows.of(outputs, gradient, self._told[1])
        generator, count = make_generator(self.seed, f"noise:{self._step}"), len(rows.values)
        u, live = curvature_noise(loss, rows, generator, count * ranks.size, count * ranks.rank)
        layers = [layer for layer in layers if self._alone(layer)]
        if not live or not layers:
            return
        share = SampleShare(live * ranks.size, torch.arange(live, device="cpu") + live * ranks.rank, ranks)
        with exact_arithmetic(outputs.device):
            for layer, calls in _reached(layers, edge, rows.shaped(u, outputs)):
                self._found.append(estimate(layer, calls, live, generator, share))
        self._rows, self._scale = live, residual_scale(loss, rows)

    def _alone(self, layer: Layer) -> bool:
        """Whether no other module shares the layer's parameters."""
        if isinstance(layer.module, Applied):
            weight = layer.module.weight
            return weight is not None and len(self._recorder.owners.get(id(weight), ())) <= 1
        own = [layer.module._parameters.get(name) for name in ("weight", "bias")]
        return all(len(self._recorder.owners.get(id(p), ())) <= 1 for p in own if p is not None)


def _reached(layers: list[Layer], edge: GradientEdge, noise: Tensor) -> list[tuple[Layer, list[tuple[Tensor, Tensor]]]]:
    """Return inputs and output gradients of the calls that lie behind `edge`; none where the graph is used up."""
    calls = [output for layer in layers for _, output in layer.calls]
    try:
        found = torch.autograd.grad([edge], calls, [noise], retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "second time" in str(error):  # another loss has gone through a part of this graph
            return []
        raise
    gradients = iter(found)
    pairs = [(layer, [(x, next(gradients)) for x, _ in layer.calls]) for layer in layers]
    kept = [(layer, [(x, g) for x, g in each if g is not None]) for layer, each in pairs]
    return [(layer, each) for layer, each in kept if each]


def _fold(
    each: Estimate, states: MutableMapping[Tensor, State], memory: float, share: SampleShare, generator: torch.Generator
) -> list[State]:
    """Take one layer's estimate into the states of its parameters, and return those."""
    named = each.layer.module._parameters
    if each.layer.kronecker:
        module = each.layer.module
        weight = module.weight if isinstance(module, Applied) else named["weight"]
        assert weight is not None, "a Kronecker layer has a trainable weight"
        state: State = states[weight]
        Block.fold(state, each, memory, share, generator)
        state["bias"] = each.layer.bias is not None
        return [state]
    trained = [named[name] for name, place in (("weight", each.layer.weight), ("bias", each.layer.bias)) if place == 0]
    folded: list[State] = []
    for p, moment in zip(trained, each.moments, strict=True):
        assert p is not None, "the layer was recorded with it"
        fold_diagonal(states[p], moment, memory)
        folded.append(states[p])
    return folded
