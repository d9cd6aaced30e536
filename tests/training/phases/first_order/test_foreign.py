"""Optimizers by import path train as in a plain torch loop; what cannot train, or not resume, is refused at once."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.data.dataset import Dataset
from subsetopt.errors import SettingError, UserError
from subsetopt.models.foreign import current_directory_importable
from subsetopt.seeding import make_generator
from subsetopt.training.phases.first_order.foreign import foreign_method
from subsetopt.training.phases.first_order.per_tensor import PerTensorOptimizer
from subsetopt.training.phases.first_order.plain_state import decode, encode

needs_extra = pytest.mark.skipif(find_spec("pytorch_optimizer") is None, reason="needs the extra [optimizers]")
MINE = '''
import torch

class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, scale=1):
        super().__init__(params, {"lr": lr, "scale": scale})
    def rate(self, group):
        return group["lr"] * group["scale"]
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.rate(group) * p.grad)

class Replaces(Plain):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - self.rate(group) * p.grad

class Matrices(Plain):
    """Sees shapes: turns every matrix's gradient by its own left singular vectors; vectors step as they are."""
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                g = p.grad
                if p.ndim == 2:
                    u, _, v = torch.linalg.svd(g, full_matrices=False)
                    g = u @ v
                p.sub_(self.rate(group) * g)

class Hidden(Plain):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.steps = 0
    def rate(self, group):
        self.steps += 1
        return group["lr"] / self.steps

class Late(Plain):
    """Its hidden count matters at every seventh step alone."""
    steps = 0
    def rate(self, group):
        self.steps += 1
        return group["lr"] * (2 if self.steps % 7 == 0 else 1)

class Odd(Plain):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["thing"] = {1, 2}

class Still(Plain):
    def step(self, closure=None):
        pass

class Closure(Plain):
    def step(self, closure=None):
        return closure()

class Fails(Plain):
    def step(self, closure=None):
        raise ValueError("two\\nlines")

class NoRate(torch.optim.Optimizer):
    def __init__(self, params, rate=0.1):
        super().__init__(params, {"rate": rate})

class NeedsRate(Plain):
    def __init__(self, params, lr):
        super().__init__(params, lr)

class Keywords(Plain):
    def __init__(self, params, lr=0.1, **kwargs):
        super().__init__(params, lr, **kwargs)

class Typed(Plain):
    def __init__(self, params, lr: float = 0.1, *, needed: int, betas=(0.9, 0.99)):
        assert isinstance(betas, tuple)
        super().__init__(params, lr)

def a_function(params, lr=0.1):
    return 5

number = 3
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `my_optimizers` in the current directory."""
    (tmp_path / "my_optimizers.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_optimizers", raising=False)


@pytest.fixture(scope="module")
def data() -> Dataset:
    x = torch.randn(200, 6, generator=make_generator(0, "foreign"))
    return dataset_from_arrays(x, x[:, :3].argmax(1))


def fit(data: Dataset, handoff: str, **settings: Any) -> SubsetTrainer:
    return SubsetTrainer("mlp", data, solver="none", handoff=handoff, handoff_epochs=1, **settings).fit()


def weights(trainer: SubsetTrainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("torch.optim:SGD(momentum=0.9,lr=0.05)", "sgd"),
        ("torch.optim:SGD(momentum=0.9,nesterov=true,lr=0.05)", "sgd(nesterov=true)"),
        ("torch.optim:Adam(betas=(0.8,0.9))", "adam(betas=(0.8,0.9))"),
        ("torch.optim:AdamW(weight_decay=0.01)", "adamw"),
    ],
)
def test_by_its_path_it_does_what_it_does_by_its_name(foreign: str, ours: str, data: Dataset) -> None:
    """Reference: the built-in of the same class; the L2 penalty in the gradient is that of the class itself."""
    torch.testing.assert_close(weights(fit(data, foreign)), weights(fit(data, ours)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["Plain", "Replaces", "Keywords", "Matrices"])
@pytest.mark.usefixtures("mine")
def test_steps_are_those_of_a_plain_loop_over_parameters_in_their_shapes(name: str) -> None:
    """Reference: the same optimizer on the model's own parameters, ten steps, L2 in the gradient."""
    with current_directory_importable():
        target = getattr(importlib.import_module("my_optimizers"), name)
    shapes = [(4, 3), (4,), (2, 4)]
    generator = make_generator(0, "steps")
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    own = [part.clone().requires_grad_() for part in start]
    reference = target(own, lr=0.3)
    w = torch.cat([part.flatten() for part in start]).requires_grad_()
    views = lambda v: [p.view(s) for p, s in zip(v.split([12, 4, 8]), shapes, strict=True)]  # noqa: E731
    ours = PerTensorOptimizer(lambda parameters, lr: target(parameters, lr=lr), views, w, 0.3, 0.01, name)
    for _ in range(10):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient + 0.01 * parameter.detach()
        reference.step()
        w.grad = torch.cat([gradient.flatten() for gradient in gradients])
        ours.step()
    torch.testing.assert_close(w.detach(), torch.cat([part.detach().flatten() for part in own]))


@pytest.mark.usefixtures("mine")
def test_a_warm_up_and_a_samplers_optimizer_take_paths_and_arguments_too(data: Dataset) -> None:
    settings = {"warmup": "my_optimizers:Plain", "warmup_args": {"scale": 0.5}, "subset_frac": 0.5, "max_iterations": 2}
    trainer = SubsetTrainer(
        "linear",
        data,
        handoff="srs",
        handoff_optimizer="torch.optim:RAdam",
        handoff_optimizer_args={"betas": [0.8, 0.9]},
        handoff_epochs=0.5,
        **settings,
    ).fit()
    phases = trainer.result["phases"]
    assert [phase["method"] for phase in phases] == ["my_optimizers:Plain", "lbfgs", "torch.optim:RAdam"]
    assert phases[0]["iterations"] > 0 and phases[2]["learning_rate"] == 1e-3


REFUSED = {
    "torch.optim:LBFGS": "closure.*subsetopt list solvers",
    "torch.optim:SparseAdam": "sparse gradients alone",
    "torch.optim:RAdm": "did you mean 'RAdam'",
    "torch.optim:SGD(momentun=0.9)": "momentun = 0.9: .*did you mean 'momentum'",
    "torch.optim:SGD(momentum=-1)": "cannot be made with .*Invalid momentum value",
    "torch.optim:SGD(momentum=high)": "momentum = 'high': is not a finite number",
    "torch.optim:SGD(0.9)": "without a key",
    "torch.optim:SGD(momentum=0.9": "not of the form",
    "torch.optim:SGD(lr=-1)": "greater than 0",
    "torch.optim:SGD(params=3)": "params = 3: .*no such setting",
    "adam(beta=3)": "beta = 3: optimizer 'adam' has no such setting; did you mean 'betas'",
    "muon(steps=3)": "optimizer 'muon' has no such setting",
    "nowhere:Optimizer": "importing nowhere failed.*or installed",
    "my_optimizers:Hidden": "its state_dict leaves something out",
    "my_optimizers:Late": "its state_dict leaves something out",
    "my_optimizers:Odd": r"keeps what no checkpoint holds: state.*\['thing'\] is a set",
    "my_optimizers:Still": "leaves the parameters as they are",
    "my_optimizers:Closure": "cannot be|closure|failed in a step",
    "my_optimizers:Fails": "failed in a step: ValueError: two",
    "my_optimizers:NoRate": "takes no lr",
    "my_optimizers:NeedsRate": r"no default learning rate; write my_optimizers:NeedsRate\(lr=0.01\)",
    "my_optimizers:Keywords(skale=2)": "did you mean 'scale'",
    "my_optimizers:Typed": "needed = None: .*needs this setting",
    "my_optimizers:number": "is an int, not a class",
    "my_optimizers:a_function": "makes an int, not a torch.optim.Optimizer",
    "sopa": "did you mean 'soap'",
    ":": "unknown name|must be one of",
}


@pytest.mark.parametrize("handoff", REFUSED)
@pytest.mark.usefixtures("mine")
def test_what_cannot_work_is_refused_in_one_line_before_any_work(handoff: str, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED[handoff]) as caught:
        fit(data, handoff, output=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.usefixtures("mine")
def test_what_lacks_only_a_setting_works_with_it(data: Dataset) -> None:
    fit(data, "my_optimizers:NeedsRate", handoff_lr=0.1)
    fit(data, "my_optimizers:Typed(needed=3,betas=[0.5,0.6])")
    fit(data, "my_optimizers:Keywords(scale=2)")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"handoff": "sgd(lr=0.1)", "handoff_lr": 0.2}, "lr is given twice"),
        ({"handoff": "sgd(momentum=0.5)", "handoff_momentum": 0.7}, "momentum is given twice"),
        ({"handoff": "torch.optim:SGD(momentum=0.5)", "handoff_args": {"momentum": 0.7}}, "momentum is given twice"),
        ({"handoff": "torch.optim:SGD(weight_decay=0.1)", "handoff_weight_decay": 0.1}, "leave one of them out"),
        ({"handoff": "adam", "handoff_schedule": "wsd", "handoff_wsd_warmup": 0.5, "handoff_wsd_decay": 0.6}, "add up"),
    ],
)
def test_what_is_said_twice_is_refused(settings: dict[str, Any], said: str, data: Dataset) -> None:
    with pytest.raises(SettingError, match=said):
        SubsetTrainer("linear", data, solver="none", handoff_epochs=1, **settings).fit()


def test_states_of_any_make_come_back_as_they_were() -> None:
    """Lists, tuples, whole numbers for keys, numbers and tensors of any dtype; what has no plain form is named."""
    state = {
        "state": {0: {"GG": [torch.ones(2, 2), []], "count": 3, "half": torch.ones(2, dtype=torch.bfloat16)}, 1: {}},
        "param_groups": [{"betas": (0.9, 0.99), "k": 2.5, "on": True, "none": None, "params": [0, 1]}],
    }
    back = decode(encode(state))
    assert torch.equal(back["state"][0].pop("GG")[0], state["state"][0].pop("GG")[0])  # type: ignore[index]
    assert back["state"][0].pop("half").dtype is torch.bfloat16 and state["state"][0].pop("half") is not None  # type: ignore[index]
    assert back == state
    for bad in ({"x": {1, 2}}, {"x": [torch.ones(2).to_sparse()]}, {(1, 2): 3}, {"x": torch.float32}):
        with pytest.raises(TypeError, match="state"):
            encode(bad)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_a_matrix_comes_back_as_it_lay_in_memory(axes: tuple[int, int]) -> None:
    """Products of a matrix that lies column by column round otherwise; checkpoints hold rows alone. SOAP has such."""
    matrix = torch.randn(5, 7, generator=make_generator(0, "layout")).permute(axes)
    plain = encode(matrix)
    stored = plain if isinstance(plain, Tensor) else plain["permuted"]["data"]
    assert stored.is_contiguous()
    back = decode(plain)
    assert torch.equal(back, matrix) and back.stride() == matrix.stride()


def test_importing_waits_until_the_optimizer_is_needed() -> None:
    assert foreign_method("nowhere:Optimizer").path == "nowhere:Optimizer"


@needs_extra
@pytest.mark.parametrize("name", ["soap", "shampoo", "lion", "schedule-free"])
def test_those_of_the_extra_train_and_are_charged(name: str, data: Dataset) -> None:
    """Their products and decompositions are charged as arithmetic, which dominates on a net as small as this."""
    trainer = SubsetTrainer("mlp", data, solver="none", handoff=name, handoff_epochs=60, handoff_batch_size=16).fit()
    (phase,) = trainer.result["phases"]
    charged = trainer.result["cost"]["by_purpose"].get("arithmetic", {"epoch_equivalents": 0})["epoch_equivalents"]
    assert phase["iterations"] >= 10 and trainer.result["metrics"]["train"]["loss"] < 1.2
    assert charged > 10 if name in ("soap", "shampoo") else charged == 0


@needs_extra
@pytest.mark.parametrize("name", ["AdaHessian", "SophiaH", "Lookahead"])
def test_those_that_need_more_than_gradients_are_refused(name: str, data: Dataset) -> None:
    with pytest.raises(SettingError, match=f"pytorch_optimizer:{name}") as caught:
        fit(data, f"pytorch_optimizer:{name}")
    assert "\n" not in str(caught.value)


@needs_extra
def test_schedule_free_is_evaluated_at_its_average(data: Dataset) -> None:
    """Reference: pytorch_optimizer's own loop with train() and eval(); looking changes no bit of the training."""
    from pytorch_optimizer import ScheduleFreeAdamW

    generator = make_generator(0, "average")
    start = torch.randn(12, generator=generator)
    w, looked_at = start.clone().requires_grad_(), start.clone().requires_grad_()
    views = lambda v: [v.view(3, 4)]  # noqa: E731
    build = lambda parameters, lr: ScheduleFreeAdamW(parameters, lr=lr)  # noqa: E731
    ours, other = (PerTensorOptimizer(build, views, each, 0.05, 0.0, "sf") for each in (w, looked_at))
    own = start.view(3, 4).clone().requires_grad_()
    reference = ScheduleFreeAdamW([own], lr=0.05)
    reference.train()
    for _ in range(9):
        gradient = torch.randn(12, generator=generator)
        w.grad, looked_at.grad, own.grad = gradient.clone(), gradient.clone(), gradient.view(3, 4).clone()
        ours.step()
        other.step()
        other.evaluated()
        reference.step()
    assert torch.equal(w, looked_at)
    reference.eval()
    torch.testing.assert_close(ours.evaluated(), own.detach().flatten())
    assert not torch.equal(ours.evaluated(), w)
