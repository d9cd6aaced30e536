"""A run that dies in the middle of a sampler's training goes on bit-identically, for every sampler and augmentation."""

import json
from importlib.util import find_spec

import pytest

from subsetopt.data.batch_augmentation import AUGMENTATIONS
from subsetopt.samplers import SAMPLERS
from subsetopt.training.phases.first_order import phase as first_order
from subsetopt.training.progress import Silent
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

CHEAP = {"repetitions": 4}
RUNS = {
    **{entry.name: {"handoff": entry.name} for entry in SAMPLERS if entry.name not in ("full", "nw-sketch")},
    "sgd": {"handoff": "sgd", "handoff_stop_at": "validation"},
    "adam": {"handoff": "adam"},
    "adamw-amp": {"handoff": "adamw", "handoff_amp": True},
    "muon": {"handoff": "muon"},
    "nw-sketch": {"handoff": "nw-sketch", "handoff_args": CHEAP},
    "nw-sketch-features": {"handoff": "nw-sketch", "handoff_args": {**CHEAP, "codes": "features", "query_every": 3}},
    "nw-exact": {"handoff": "nw-sketch", "handoff_args": {"estimator": "exact"}, "handoff_epochs": 40},
    "composer": {"handoff": "selective-backprop", "handoff_args": {"variant": "composer"}},
    "stale": {"handoff": "selective-backprop", "handoff_args": {"stale_epochs": 2}},
    "gradmatch-often": {"handoff": "gradmatch", "handoff_args": {"fraction": 0.3, "scan_period": 1}},
    **{f"p-sgd-{e.name}": {"handoff": "p-sgd", "handoff_augmentation": e.name} for e in AUGMENTATIONS},
    "dropout-batchnorm": {"handoff": "srs"},
    "radam": {"handoff": "torch.optim:RAdam"},
    "nadam with a sampler": {"handoff": "srs", "handoff_optimizer": "torch.optim:NAdam(lr=0.01)"},
    "own decay, wsd": {"handoff": "torch.optim:Adagrad(weight_decay=0.01)", "handoff_schedule": "wsd"},
}
EXTRA = {
    "soap": {"handoff": "soap(precondition_frequency=3)", "handoff_epochs": 30},  # its matrices cost more than the net
    "shampoo": {"handoff": "shampoo(lr=0.01)", "handoff_epochs": 100},
    "lion": {"handoff": "lion"},
    "schedule-free": {"handoff": "schedule-free", "handoff_stop_at": "validation", "track_validation": 0.3},
    "srs with soap": {"handoff": "srs", "handoff_optimizer": "soap", "handoff_optimizer_args": {"betas": [0.9, 0.95]}}
    | {"handoff_epochs": 30},
}
needs_extra = pytest.mark.skipif(find_spec("pytorch_optimizer") is None, reason="needs the extra [optimizers]")


class Killed(BaseException):
    """Not an error that anything in the library would handle."""


class Killer(Silent):
    def __init__(self, after):
        self.left = after

    def update(self, record):
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture(autouse=True)
def few_records(monkeypatch):
    monkeypatch.setattr(first_order, "RECORDS", 10)
    monkeypatch.setattr("subsetopt.report.figure.loss_figure", lambda *given: None)


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=needs_extra) for name in EXTRA)])
def test_a_killed_run_resumes_bit_identically(name, tmp_path, images, net):
    """Reference: the same run uninterrupted. Killed twice, once near the start and once near the end."""

    def config(folder):
        return make_config(
            {
                "solver": "none",
                "handoff_epochs": 2.5,
                "handoff_batch_size": 16,
                "checkpoint_seconds": 0,
                "output": tmp_path / folder,
                **(RUNS | EXTRA)[name],
            }
        )

    given = {"model": net(norm="batchnorm" in name, dropout=0.3 * ("dropout" in name)), "dataset": images}
    whole = train(config("whole"), **given)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    with pytest.raises(Killed):
        train(config("cut"), progress=Killer(3), **given)
    with pytest.raises(Killed):
        resume_run(tmp_path / "cut", progress=Killer(len(lines) - 6), **given)
    resumed = resume_run(tmp_path / "cut", **given)

    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "cut")]
    assert files[0] == files[1]
    for key in ("metrics", "overdetermination"):
        assert resumed.result[key] == whole.result[key]
    assert resumed.result["cost"]["by_purpose"] == whole.result["cost"]["by_purpose"]
    assert resumed.result["phases"][0]["sampling"] == whole.result["phases"][0]["sampling"]
    cut = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(a)["loss"] for a in cut] == [json.loads(a)["loss"] for a in lines]
