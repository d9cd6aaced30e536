"""What one mini-batch computes, charges and credits; the sampler faults 4, 6, 7 and 8 of public code are tests here."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from subsetopt.data import dataset_from_arrays
from subsetopt.data.batch_augmentation import Augmented
from subsetopt.models import build_model
from subsetopt.objective import make_loss
from subsetopt.training.phases.first_order.mini_batch import donor_losses
from subsetopt.training.splits import SplitName

SELECTING = ["selective-backprop", "gradient-matching", "craig", "gradmatch", "glister"]


@pytest.mark.parametrize("sampler", SELECTING)
def test_selection_runs_in_eval_mode_and_leaves_batch_norm_alone(sampler, begin, net):
    """Fault 6. Reference: BatchNorm counts its own updates, one per training step."""
    running = begin(net(norm=True, dropout=0.5), handoff=sampler)
    running.finish()
    buffers = running.run.model.flat.buffers()
    updates = next(value for name, value in buffers.items() if name.endswith("num_batches_tracked"))
    assert running.budget.ledger.by_purpose()["selection"]["calls"] >= 1
    assert int(updates) == running.state.iterations > 0


@pytest.mark.parametrize("sampler", SELECTING)
def test_selection_sees_the_rows_as_they_are_stored(sampler, begin, monkeypatch):
    """Fault 7. Under an augmentation that destroys its input the training is not finite; selection is."""
    at_once = {"warmup": 0} if sampler in ("craig", "gradmatch", "glister") else {}
    running = begin(handoff=sampler, handoff_args=at_once, handoff_augmentation="standard")
    destroyed = lambda images, preprocess, generator: Augmented(preprocess(images) * torch.nan)  # noqa: E731
    monkeypatch.setattr(running.phase._mini_batch, "_augmentation", destroyed)
    seen = []
    for name in ("select", "refresh"):
        inner = getattr(running.phase._sampler, name)
        watched = lambda *given, inner=inner: seen.append(given) or inner(*given)  # noqa: E731
        monkeypatch.setattr(running.phase._sampler, name, watched)
    w = running.state.w
    for _ in range(running.phase._sampler.steps_per_epoch + 2):
        loss, _ = running.phase._mini_batch.gradient(w, running.state.augmentation) or (None, None)
        assert loss is None or not loss.isfinite()
    assert seen
    tensors = [
        t for given in seen for part in given if part is not None for t in (part if isinstance(part, tuple) else [part])
    ]
    assert all(t is None or not t.is_floating_point() or bool(t.isfinite().all()) for t in tensors)


class Decided(torch.nn.Module):
    """Probability 0.9 for class 0 whatever the input, so that 1 - p[y] is 0.1 or 0.9 by the label alone."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3 * 12 * 12, 2)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.copy_(torch.tensor([0.9, 0.1]).log())

    def forward(self, x):
        return self.last(x.flatten(1))


@pytest.mark.parametrize("sampler", ["p-sgd", "c-sgd"])
@pytest.mark.parametrize("augmentation", ["none", "standard", "cutout", "mixup", "ricap"])
def test_every_donor_of_a_mixture_is_credited_with_its_own_error(sampler, augmentation, begin, images):
    """Fault 4. Reference: the error of a sample is known from its label; crediting the row would blend them."""
    two = replace(
        images,
        n_outputs=2,
        **{
            name: replace(s, targets=s.targets % 2)
            for name in ("train", "validation", "test")
            if (s := getattr(images, name))
        },
    )
    running = begin(
        Decided(),
        two,
        handoff=sampler,
        handoff_args={"fraction": 1.0},
        handoff_augmentation=augmentation,
        handoff_lr=1e-30,
        handoff_weight_decay=0.0,
        handoff_epochs=4,
    )
    state = running.finish()
    memory = running.phase._sampler
    rows = running.budget.ledger.by_purpose()["train"]["samples"]
    assert float(memory.visits.sum()) == pytest.approx(rows, rel=1e-5), "the shares of a row sum to one"
    expected = torch.where(two.train.targets == 0, 0.1, 0.9)
    seen = memory.visits > 0.01
    assert seen.float().mean() > 0.9 and state.iterations > 30
    assert torch.allclose((memory.total / memory.visits)[seen], expected[seen], atol=1e-4)


def test_the_loss_of_a_mixture_weighs_each_donor_by_its_share_and_its_own_importance(begin):
    """Reference: sums by hand over rows and donors, of what the phase itself computes under `mixup`."""
    running = begin(handoff="p-sgd", handoff_args={"correction": "importance"}, handoff_augmentation="mixup")
    batch, inputs = running.phase._mini_batch, {}
    proposal = running.phase._sampler.propose()
    proposal = proposal._replace(weights=torch.linspace(0.5, 2, len(proposal.indices)))
    running.phase._sampler.propose = lambda: proposal
    inner = batch._augmented
    batch._augmented = lambda *given: inputs.setdefault("seen", inner(*given))
    w = running.state.w
    loss, gradient = batch.gradient(w, running.state.augmentation)
    mixed, donors, shares = inputs["seen"]
    targets = running.data.trained(SplitName.TRAIN)[1][proposal.indices]
    outputs = running.run.model.flat.forward(w, mixed, "eval")
    terms = [
        shares[r, d] * proposal.weights[donors[r, d]] * cross_entropy(outputs[r], targets[donors[r, d]])
        for r in range(len(targets))
        for d in range(2)
    ]
    expected = torch.stack(terms).sum() / len(targets)
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(expected, w)[0], rtol=1e-4, atol=1e-7)


def test_donor_losses_of_unmixed_rows_are_the_losses():
    outputs, targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
    per_sample = make_loss("cross_entropy").per_sample
    plain = donor_losses(per_sample, outputs, targets, None)
    certain = torch.tensor([1.0, 0.0]).expand(5, 2)
    doubled = donor_losses(per_sample, outputs, torch.stack([targets, (targets + 1) % 3], 1), certain)
    assert torch.equal(plain, cross_entropy(outputs, targets, reduction="none"))
    assert torch.equal(doubled.sum(1), plain)


def test_a_scan_holds_the_gradients_of_the_loss_that_is_trained(begin):
    """Reference: p - (1 - s) onehot - s / M in closed form, s the label smoothing."""
    running = begin(handoff="craig", handoff_label_smoothing=0.2)
    inputs, targets = running.data.trained(SplitName.TRAIN)
    w = running.state.w.detach()
    scan = running.phase._mini_batch._scan(w, inputs, targets)
    p = running.run.model.flat.forward(w, running.data.preprocess(inputs), "eval").softmax(1)
    expected = p - 0.8 * torch.nn.functional.one_hot(targets, 3) - 0.2 / 3
    assert torch.allclose(scan.residuals, expected, atol=1e-6)
    weight, bias = list(running.run.model.flat.module(w).parameters())[-2:]
    outputs = scan.features @ weight.T + bias
    assert torch.allclose(outputs.softmax(1), p, atol=1e-5), "features are the inputs of the last layer"


@pytest.mark.parametrize("sampler", ["sgd", "selective-backprop", "gradient-matching", "craig", "nw-sketch"])
def test_the_ledger_agrees_with_the_flops_of_a_whole_phase(sampler, begin):
    """Fault 8. Reference: FlopCounterMode around everything the phase does, in gradients over all N rows."""
    generator = torch.Generator().manual_seed(0)
    n = 900 if sampler == "craig" else 300  # distances within classes of 300 rows cost 9 % of an epoch here
    pixels = torch.randint(0, 256, (n, 1, 16, 16), generator=generator).to(torch.uint8)
    data = dataset_from_arrays(pixels, torch.arange(n) % 3, normalize="standard")
    model = build_model("cnn", in_shape=(1, 16, 16), n_outputs=3)
    settings = {
        "handoff": sampler,
        "handoff_epochs": 4,
        "handoff_args": {"repetitions": 8} if sampler == "nw-sketch" else {},
    }
    begun = begin(model, data, **settings)
    unit = begun.phase._mini_batch._gradient_flops * begun.data.full_size
    with FlopCounterMode(display=False) as counter:
        begun.phase.start(begun.run.model.flat.initial())  # once more, for what binding costs
        begun.finish()
    assert begun.budget.ledger.cost > 3
    bound_before = begun.budget.ledger.price("gradient", begun.phase._mini_batch.bind_rows)
    assert counter.get_total_flops() / unit == pytest.approx(begun.budget.ledger.cost - bound_before, rel=0.02)


def test_a_single_row_is_passed_over_where_batch_norm_cannot_take_it(begin, net):
    """81 rows in batches of two leave one over, which costs nothing: 162 rows are trained on in 81 steps of two."""
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(432, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)
    )
    running = begin(model, handoff="rs2", handoff_args={"fraction": 0.5}, handoff_batch_size=2, handoff_epochs=1)
    running.finish()
    assert running.state.iterations == 81


@pytest.mark.parametrize("name", ["standard", "mixup"])
def test_augmentation_is_charged_by_the_numbers_it_writes_and_stands_apart(name, begin, net):
    """By hand for a (3, 12, 12) image: at least a crop and a flip of 432 numbers each, at most thirty times."""
    running = begin(net(), handoff="sgd", handoff_augmentation=name, handoff_epochs=1)
    running.finish()
    table = running.budget.ledger.by_purpose()
    per_image = table["augmentation"]["flops"] / table["train"]["samples"]
    assert 2 * 432 <= per_image <= 30 * 432
    assert table["augmentation"]["samples"] == 0 and table["augmentation"]["epoch_equivalents"] > 0
    assert running.budget.ledger.cost == pytest.approx(table["train"]["epoch_equivalents"])
