"""Phases of a run on every device: the parameters of the CPU, the bits of an uninterrupted run after a resume.

A sampler's draws, an augmentation's and a stream's orders come from generators on the CPU, so that in float64 a few
steps end where the CPU ends; dropout draws on the device, and is compared with itself alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_cases import begin, close, convnet, dense, images, resumed, vectors, waiting_is_an_error
from torch import nn

from subsetopt.analysis.verification import verify_run
from subsetopt.data.batch_augmentation import AUGMENTATIONS, make_augmentation
from subsetopt.samplers import SAMPLERS
from subsetopt.seeding import make_generator
from subsetopt.training.phases.first_order.phase import _on_host
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

CHEAP = {"nw-sketch": {"handoff_args": {"repetitions": 4}}}
FIRST = {"solver": "none", "handoff_epochs": 3, "handoff_batch_size": 16}
PHASES = {
    "lbfgs": {"solver": "lbfgs"},
    "ncg": {"solver": "ncg"},
    "newton-cg": {"solver": "newton-cg", "solver_args": {"preconditioner": "kfac"}},
    "noise-test": {"solver": "lbfgs", "stop_at": "noise", "subset_frac": 0.9},
    "kfac-stream": {"solver": "kfac-stream", "solver_epochs": 3},
    **{name: {**FIRST, "handoff": name} for name in ("sgd", "adam", "adamw", "muon")},
    "clipped": {**FIRST, "handoff": "sgd", "handoff_clip_norm": 0.1},
}
SAMPLED = {
    entry.name: {**FIRST, "handoff": entry.name, **CHEAP.get(entry.name, {})}
    for entry in SAMPLERS
    if entry.name != "full"
}


@pytest.mark.parametrize("name", [*PHASES, *SAMPLED])
def test_a_few_steps_end_where_the_cpu_ends(name: str, device: torch.device) -> None:
    """Sums in another order are compared after few steps, before they can choose another sample."""
    settings = {**PHASES, **SAMPLED}[name]
    here, there = (begin(place, dense(), vectors(), **settings).steps(4) for place in (torch.device("cpu"), device))
    assert there.w.device.type == device.type
    # Scores and weights of samplers are float32; Muon orthogonalises in bfloat16, whatever the parameters are.
    rtol, atol = (2e-2, 2e-3) if name == "muon" else (1e-3, 1e-4) if name in SAMPLED else (1e-6, 1e-8)
    close(there.w, here.w, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", [*PHASES, "adam-conv", "sgd-norm-dropout", "stream-norm-dropout"])
def test_a_resumed_phase_ends_with_the_same_bits(name: str, device: torch.device, repeatable: None) -> None:
    """By way of a checkpoint's tensors on the CPU. cuDNN repeats itself under `cudnn.deterministic` (`repeatable`)."""
    if name.endswith("dropout"):
        model, dataset = convnet(norm=True, dropout=0.3), images()
        settings = PHASES["kfac-stream" if name.startswith("stream") else "sgd"]
    elif name == "adam-conv":
        model, dataset, settings = convnet(), images(), {**PHASES["adam"], "handoff_augmentation": "ricap"}
    else:
        model, dataset, settings = dense(), vectors(), PHASES[name]
    settings = {**settings, "dtype": "float32"}
    whole, cut = (begin(device, model, dataset, **settings) for _ in range(2))
    whole, cut = whole.steps(9), cut.steps(4)
    again = resumed(cut, begin(device, model, dataset, **settings)).steps(5)
    assert torch.equal(again.w, whole.w)
    buffers = zip(again.run.model.flat.buffers().values(), whole.run.model.flat.buffers().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


@pytest.mark.parametrize("name", [entry.name for entry in AUGMENTATIONS])
def test_augmented_batches_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    stored = images(32).train.inputs
    augmentation = make_augmentation(name, tuple(stored.shape[1:]))
    assert augmentation is not None
    results = [
        augmentation(stored.to(place), lambda x: (x.float() - 120) / 60, make_generator(0, "augment"))
        for place in ("cpu", device)
    ]
    for here, there in zip(*results, strict=True):
        assert (here is None) == (there is None)
        if here is not None:
            assert there.device.type == device.type
            close(there, here, torch.float32)


@pytest.mark.parametrize("augmentation", ["none", "standard", "mixup"])
@pytest.mark.parametrize("sampler", ["sgd", "adam", "srs"])
def test_a_mini_batch_step_waits_for_nothing(sampler: str, augmentation: str, device: torch.device) -> None:
    """Indices, random draws and shares go to the device by queued copies; losses are read once for many steps."""
    running = begin(
        device,
        convnet(),
        images(),
        **{**FIRST, "handoff": sampler, "handoff_augmentation": augmentation},
        dtype="float32",
        validation_fraction=0.1,
    ).steps(2)
    batch, w = running.phase._mini_batch, running.state.w
    with waiting_is_an_error(device) as count:
        computed = batch.gradient(w, running.state.augmentation)
    assert count() == 0 and computed is not None


def test_what_a_checkpoint_keeps_on_the_host() -> None:
    """Adam reads its step count with every step: on a GPU that would be a wait for each."""
    assert _on_host("optimizer/step") and _on_host("optimizer/adamw/3/step") and _on_host("random/cuda")
    assert not _on_host("optimizer/exp_avg") and not _on_host("w") and not _on_host("sampler/step")


@pytest.mark.parametrize("method", ["adam", "adamw", "muon"])
def test_a_resumed_optimizer_counts_on_the_host(method: str, device: torch.device) -> None:
    settings = {**FIRST, "handoff": method, "dtype": "float32"}
    cut = begin(device, dense(), vectors(), **settings).steps(2)
    again = resumed(cut, begin(device, dense(), vectors(), **settings)).steps(1)
    tensors, _ = again.phase.save(again.state)
    counts = [tensor for name, tensor in tensors.items() if name.endswith("/step")]
    assert counts and all(tensor.device.type == "cpu" for tensor in counts)


def test_autocast_reaches_first_order_phases_and_no_solver(device: torch.device) -> None:
    """bfloat16 in the model's products, float32 in parameters and losses; near the float32 run, and not equal to it."""
    seen: list[torch.dtype] = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model = nn.Sequential(Watched(6, 8), nn.Tanh(), Watched(8, 3))
    model.load_state_dict({name.replace("3.", "2."): value for name, value in dense().state_dict().items()})
    ends = []
    for amp in (False, True):
        seen.clear()
        running = begin(device, model, vectors(), **{**FIRST, "handoff": "sgd"}, dtype="float32", handoff_amp=amp)
        seen.clear()
        running = running.steps(6)
        assert set(seen) == {torch.bfloat16 if amp else torch.float32}
        assert running.w.dtype == torch.float32
        ends.append(running.w)
    assert not torch.equal(*ends)
    close(ends[1], ends[0], rtol=0.05, atol=0.02)
    seen.clear()
    begin(device, model, vectors(), solver="lbfgs", dtype="float32").steps(2)
    assert torch.bfloat16 not in seen


def test_a_run_is_trained_resumed_and_verified_on_the_device(device: torch.device, tmp_path: Path) -> None:
    """The whole way through a run directory, from a source tree: environment and version included."""
    model, data = dense(), vectors()
    config = {
        "device": device.type,
        "dtype": "float64",
        "warmup": "adam",
        "solver": "lbfgs",
        "handoff": "srs",
        "l2": 0.05,
        "handoff_epochs": 1,
        "subset_frac": 0.5,
        "gtol": 1e-6,
    }
    outcome = train(make_config({**config, "output": tmp_path / "run"}), model=model, dataset=data, figure=False)
    assert outcome.result["solve"]["converged"] and outcome.result["version"].count(".") == 2
    verified = verify_run(tmp_path / "run", model=model, dataset=data).content()
    assert verified["verdict"] == "minimum"
    again = resume_run(tmp_path / "run", model=model, dataset=data)
    assert again.result == outcome.result
