"""Samplers: which rows the next step of a first-order optimiser sees, and with which weights."""

from subsetopt.samplers.factory import SAMPLERS, card, default_settings, make_sampler
from subsetopt.samplers.protocol import Batch, Sampler, Scan, Seen
from subsetopt.samplers.torch_sampler import TorchBatchSampler, as_torch_sampler

__all__ = [
    "SAMPLERS",
    "Batch",
    "Sampler",
    "Scan",
    "Seen",
    "TorchBatchSampler",
    "as_torch_sampler",
    "card",
    "default_settings",
    "make_sampler",
]
