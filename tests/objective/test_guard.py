"""What an objective finds out about a model before it starts, and names by its cause."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subsetopt.errors import ModelError
from subsetopt.objective import FlatModel, Objective
from subsetopt.seeding import make_generator

N = 40
X = torch.randn(N, 5, generator=make_generator(0, "guard"))
Y = torch.arange(N) % 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)


class Centred(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class ByBatchSize(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / len(x)


class AttendsToTheBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x @ x.T).softmax(1) @ x)


class Clock(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + time.perf_counter_ns() % 1000)


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.randn_like(x))


class CountsInABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.layer(x) * self.seen


class NotANumberSomewhere(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.where(x[:, :1] > X[2, 0] - 1e-6, torch.tensor(-1.0), 1.0).log() * x)


class KeepsInTraining(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.kept = x
        return self.layer(self.kept)


class Returns(Net):
    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor):
        return self.change(self.layer(x))


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(5, 2)))


def lazy_buffer() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 2), nn.LazyBatchNorm1d(affine=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Centred, "depend on the others beside it .* 16 samples are cut into 5 and 11"),
        (ByBatchSize, "depend on the others beside it"),
        (AttendsToTheBatch, "depend on the others beside it"),
        (Clock, "depend on the time, or on what earlier calls left behind"),
        (Random, "draws random numbers in eval mode"),
        (CountsInABuffer, "its forward pass changes seen"),
        (NotANumberSomewhere, r"outputs are nan for \d+ of the first 16 samples, first for row \d"),
        (KeepsInTraining, "in eval mode: AttributeError: 'KeepsInTraining' object has no attribute 'kept'"),
        (lambda: Returns(lambda z: (z, z)), "returns tuple; return one floating-point tensor"),
        (lambda: Returns(lambda z: {"logits": z}), "returns dict; return one"),
        (lambda: Returns(lambda z: z.argmax(1)), "returns a torch.int64 tensor of shape"),
        (lambda: Returns(lambda z: z.mean()), r"returns a torch.float32 tensor of shape \(\)"),
        (lambda: Returns(lambda z: z.T), r"16 samples give outputs of shape \(2, 16\)"),
        (lambda: Returns(lambda z: z[:, :0]), r"outputs of shape \(16, 0\)"),
        (lambda: Returns(lambda z: z.detach()), "do not depend on its parameters"),
        (
            lambda: Returns(lambda z: checkpoint(torch.tanh, z.detach(), use_reentrant=True)),
            "use_reentrant=True inside",
        ),
        (lambda: Returns(lambda z: z.to_sparse()), r"returns a torch.sparse_coo tensor of shape \(16, 2\); return one"),
        (lambda: Returns(lambda z: z.to_mkldnn()), "returns a torch._mkldnn tensor"),
        (lambda: Returns(lambda z: z.to_sparse_csr()), "returns a torch.sparse_csr tensor"),
        (lambda: Returns(lambda z: z.to(torch.complex64)), "returns a torch.complex64 tensor"),
        (lambda: nn.Sequential(nn.Linear(5, 2)).to("meta"), "is on the meta device and has no values"),
        (lambda: nn.LazyLinear(2), "is lazy; run the model once"),
        (lazy_buffer, "buffer 1.running_mean has no values"),
        (lambda: nn.Linear(5, 2).half(), "torch.float16 is too coarse"),
        (lambda: nn.Linear(5, 2).bfloat16(), "torch.bfloat16 is too coarse"),
        (lambda: nn.Linear(5, 2).requires_grad_(False), "no trainable parameters"),
        (nn.Flatten, "no trainable parameters"),
        (scripted, "torch.jit module"),
        (lambda: nn.Sequential(nn.Flatten(), scripted()), "torch.jit module"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_by_the_true_cause(make, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Objective(make(), X, Y)
    assert "\n" not in str(caught.value)


class Remembers(Net):
    """Keeps activations in a list, counts calls in an unused buffer, makes a table when first called."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_parameter("absent", None)
        self.codes = nn.Parameter(torch.arange(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.ones(5), persistent=False)
        hidden = self.layer(x * self.table)
        self.kept = [hidden]
        return hidden


def test_what_a_model_keeps_for_itself_does_not_stand_in_the_way() -> None:
    model = Remembers()
    reference = nn.functional.cross_entropy(model(X), Y)  # its activations are no leaves, which deepcopy refuses
    objective = Objective(model, X, Y)
    torch.testing.assert_close(objective.value(objective.initial()).float(), reference.detach())
    assert int(model.calls) == 1 and isinstance(copy.deepcopy(objective.flat), FlatModel)
    trained = objective.flat.module(objective.initial() + 1)
    assert torch.equal(trained.layer.weight, model.layer.weight + 1) and trained.codes.dtype == torch.int64


def test_two_dtypes_become_that_of_the_first_parameter() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2).double())
    objective = Objective(model, X, Y)
    assert objective.dtype == torch.float32 and bool(torch.isfinite(objective.value(objective.initial())))


class CentredInstances(Centred):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(1, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.unsqueeze(1)).squeeze(1))


def test_instance_norm_is_no_excuse_for_a_model_that_depends_on_the_batch() -> None:
    with pytest.raises(ModelError, match="depend on the others beside it"):
        Objective(CentredInstances(), X, Y)
    alone = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten())
    model = nn.Sequential(alone, nn.Linear(5, 2))
    one, other = (Objective(model, X, Y, chunk_size=size) for size in (N, 7))
    torch.testing.assert_close(one.value(one.initial()), other.value(one.initial()), rtol=1e-6, atol=0)


def test_unequal_parts_leave_batch_norm_and_its_chunks_alone() -> None:
    Objective(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)), X, Y)


class Half(torch.autograd.Function):
    """a * b, whose backward has forgotten that one of its two halves depends on b."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return gradient * b.detach(), gradient * a


class Gated(nn.Module):
    def __init__(self, product) -> None:
        super().__init__()
        self.first, self.gate, self.last, self.product = nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(3, 2), product

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.product(self.first(x), self.gate(x)))


def test_products_that_are_not_symmetric_are_taken_by_differences() -> None:
    """Reference: the same model with torch's own product."""
    wrong, right = Gated(Half.apply).double(), Gated(torch.mul).double()
    right.load_state_dict(wrong.state_dict())
    objective = Objective(wrong, X.double(), Y, l2=0.1)
    w = objective.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    with pytest.warns(UserWarning, match="the matrix is not symmetric"):
        product = objective.linearise(w).hvp(v)
    expected = Objective(right, X.double(), Y, l2=0.1).linearise(w).hvp(v)
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-8)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 3), nn.Linear(3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).mean(1))


def test_a_model_that_fails_on_a_late_sample_is_told_of_in_one_line() -> None:
    tokens = torch.randint(0, 9, (N, 4), generator=make_generator(0, "tokens"))
    tokens[30, 1] = 9
    objective = Objective(Table(), tokens, Y)
    for call in (objective.value, objective.value_and_gradient, objective.outputs):
        with pytest.raises(ModelError, match=r"torch.int64 in eval mode: IndexError: index out of range") as caught:
            call(objective.initial())
        assert "\n" not in str(caught.value)


class RootAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (self.layer.weight - self.layer.weight.detach()).square().sum().sqrt()


def test_a_model_whose_gradient_cannot_be_had_is_told_of_its_cause() -> None:
    with pytest.raises(ModelError, match=r"gradient in layer.weight is NaN or infinite"):
        Objective(RootAtZero(), X, Y)
    model = nn.Sequential(nn.Linear(5, 2), nn.Sigmoid(), Returns(lambda z: z))
    model[2].forward = lambda z: z.mul_(2)
    with pytest.raises(ModelError, match=r"in its backward pass: RuntimeError: .* modified by an inplace operation"):
        Objective(model, X, Y)


class Clamps(Net):
    """Keeps its weights small in the forward pass, as some critics do; `training` says whether only then."""

    def __init__(self, frozen: bool = False, always: bool = True, how: str = "no_grad", scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((5,), scale), requires_grad=not frozen)
        self.always, self.how = always, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "data":  # goes past autograd's count of versions
            self.scale.data.clamp_(0, 0.5)
        elif self.how == "another":
            self.scale.data = self.scale.data.clamp(0, 0.5)
        elif self.always or self.training:
            with torch.no_grad():
                self.scale.clamp_(0, 0.5)
        return self.layer(x * self.scale)


class Momentum(Net):
    """A target that follows the weights; at the start it is where they are, so that two evaluations are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.target = copy.deepcopy(self.layer).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.target.weight.lerp_(self.layer.weight, 0.01)
        return self.layer(x) - 0.5 * self.target(x)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Clamps, "scale"),
        (lambda: Clamps(scale=0.25), "parameters"),  # none is beyond the bound yet
        (lambda: Clamps(how="data"), "scale"),
        (lambda: Clamps(how="another"), "scale"),
        (lambda: Clamps(frozen=True), "frozen parameters"),
        (lambda: Clamps(frozen=True, how="data"), "frozen parameters"),
        (lambda: Clamps(frozen=True, how="another"), "frozen parameters"),
        (Momentum, "frozen parameters"),
    ],
)
@pytest.mark.parametrize("check_deterministic", [True, False])
def test_a_forward_pass_that_writes_parameters_is_refused(make, what: str, check_deterministic: bool) -> None:
    """The point moved under the solver: a line search compared values at points that nobody had."""
    with pytest.raises(ModelError, match=f"its forward pass writes {what} in place"):
        Objective(make(), X, Y, check_deterministic=check_deterministic)


def test_parameters_that_are_written_in_training_mode_alone_are_taken() -> None:
    objective = Objective(Clamps(always=False), X, Y)
    assert torch.equal(objective.initial()[-5:], torch.ones(5)) or torch.equal(objective.initial()[:5], torch.ones(5))


def test_frozen_embeddings_that_scale_their_rows_on_first_use_are_taken() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Flatten(), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    objective = Objective(model, torch.arange(8).reshape(4, 2) % 5, torch.arange(4) % 2)
    assert bool(torch.isfinite(objective.value(objective.initial())))
