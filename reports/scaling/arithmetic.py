"""The arithmetic of reports/scaling/README.md: floating point operations counted by torch, the rest by hand.

Run as `python reports/scaling/arithmetic.py`; nothing is computed but shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subsetopt.models import build_model

SAMPLES, DEVICES, PER_NODE = 1_000_000_000, 1000, 8
DEVICE_FLOPS = 60e12  # float32 without TF32, which a line search does not bear; the peak of a large GPU of 2024
UTILISATION = 0.5
NODE_NETWORK = 400e9 / 8  # bytes per second into and out of a node: 400 Gbit/s
LATENCY = 5e-6  # seconds per hop of a ring
HOST_TO_DEVICE = 50e9  # bytes per second, PCIe 5 x16, page-locked
NODE_STORAGE = 10e9  # bytes per second a node reads from NVMe or a parallel file system
FAILURES_PER_DEVICE_HOUR = 1 / 50_000
PAIRS = 20


class Transformer(nn.Module):
    """The shapes of ViT-B/16 at 224 x 224: 12 layers of width 768 on 197 tokens, 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Linear(768, 1000)
        self.extra = nn.Parameter(torch.zeros(1, 1, 768))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.extra.expand(len(x), -1, -1), tokens], 1)
        out: Tensor = self.head(self.layers(tokens)[:, 0])
        return out


def gradient_flops(model: nn.Module, shape: tuple[int, ...], rows: int = 2) -> float:
    """Return the operations of a loss and its gradient for one sample."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(rows, *shape, device="meta")).sum().backward()
    return float(counter.get_total_flops()) / rows


def describe(name: str, model: nn.Module, shape: tuple[int, ...], sample_bytes: int) -> None:
    """Print what one evaluation costs, line by line."""
    parameters = sum(p.numel() for p in model.parameters())
    flops, share = gradient_flops(model, shape), SAMPLES / DEVICES
    nodes = DEVICES // PER_NODE
    wire = 8 * (parameters + 1)
    ring = 2 * (DEVICES - 1) / DEVICES * wire / NODE_NETWORK + 2 * (nodes - 1) * LATENCY
    seconds = flops * share / (DEVICE_FLOPS * UTILISATION)
    read = sample_bytes * share * PER_NODE / NODE_STORAGE
    print(f"{name}: P = {parameters:,}, {flops / 1e9:.4g} GFLOP per sample and gradient")
    print(f"  arithmetic   {flops * share:.3g} FLOP per device: {seconds:.3g} s")
    print(f"  collective   {wire / 1e6:.3g} MB: {1000 * ring:.3g} ms ({100 * ring / seconds:.2g} % of the arithmetic)")
    print(f"  shard        {sample_bytes * share / 1e9:.3g} GB per device")
    print(f"  from host    {sample_bytes * share / HOST_TO_DEVICE:.3g} s per pass; from storage {read:.3g} s per pass")
    print(
        f"  curvature    {2 * PAIRS * parameters * 4 / 1e9:.3g} GB for {PAIRS} pairs, float32; shared "
        f"{2 * PAIRS * parameters * 4 / DEVICES / 1e6:.3g} MB"
    )
    rate = DEVICES * FAILURES_PER_DEVICE_HOUR
    print(
        f"  failures     one in {1 / rate:.3g} h; 200 evaluations take {200 * max(seconds, read) / 3600:.3g} h or more"
    )


if __name__ == "__main__":
    with torch.device("meta"):
        transformer = Transformer()
    resnet = build_model("resnet", in_shape=(3, 32, 32), n_outputs=10).to("meta")
    cnn = build_model("cnn", in_shape=(1, 28, 28), n_outputs=10).to("meta")
    describe("cnn", cnn, (1, 28, 28), 28 * 28)
    describe("resnet", resnet, (3, 32, 32), 3 * 32 * 32)
    describe("transformer (ViT-B/16)", transformer, (3, 224, 224), 3 * 224 * 224)
