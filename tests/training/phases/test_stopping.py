"""Who asks for the test by sampling noise on too few samples is told so in words of the setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subsetopt.data import dataset_from_arrays
from subsetopt.errors import SettingError
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config


def build(samples: int, model: str = "linear", **settings: Any) -> None:
    x = torch.randn(samples, 3, 8, 8) if model == "resnet" else torch.randn(samples, 4)
    data = dataset_from_arrays(x, torch.arange(samples) % 2)
    config = make_config({"model": model, "validation_fraction": 0.0, "handoff": "none", **settings})
    build_phases(*prepare(config, dataset=data))


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"subset_size": 7, "stop_at": "noise"}, "stop_at = 'noise'"), ({"grow": 2, "grow_start": 0.5}, "grow_stop")],
)
def test_the_setting_is_named(settings: dict[str, Any], name: str) -> None:
    """Before: `track_noise = True`, which no user knows, and `chunk_size = 1` with BatchNorm."""
    model = "linear" if "stop_at" in settings else "resnet"
    with pytest.raises(SettingError) as caught:
        build(28, model, **settings)
    assert str(caught.value).startswith(name) and "needs at least" in str(caught.value)


def test_just_enough_samples_are_taken() -> None:
    build(40, subset_size=MINIMUM_CHUNKS, stop_at="noise")
    build(64, "resnet", subset_size=2 * MINIMUM_CHUNKS, stop_at="noise", model_args={"width": 2})
