"""A Nadaraya-Watson estimator in constant memory: hash tables of summed scores and counts.

s_hat(x) = sum_i k(x, x_i) s_i / sum_i k(x, x_i), where the kernel k is the collision probability of a locality
sensitive hash. Each of R repetitions keeps A_r[h_r(x_i)] += s_i and C_r[h_r(x_i)] += 1, and
s_hat = sum_r A_r[h_r(x)] / sum_r C_r[h_r(x)] converges to the exact estimator like 1 / sqrt(R) (Coleman and
Shrivastava 2020, RACE sketches). Codes are stored flat, repetition r in [r B, (r + 1) B), so that one `embedding_bag`
reads both sums of a row without an intermediate array.

Libraries of locality sensitive hashing (faiss, datasketch) find neighbours; none keeps sums of scores in its buckets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from subsetopt.data.given.memory import free_bytes
from subsetopt.errors import SettingError
from subsetopt.samplers.credit import add_at

_PRIME = 2_147_483_647
_CHUNK = 4096


@dataclass(frozen=True)
class Hash:
    """R repetitions of `hashes` concatenated hash functions, drawn once.

    "srp" takes signs of random projections, kernel (1 - theta / pi)^hashes with theta the angle between two rows.
    "p-stable" takes floor((x a + b) / width), kernel p(|x - y|)^hashes (`pstable_collision`), folded into `buckets`.
    """

    kind: Literal["srp", "p-stable"]
    projections: Tensor
    offsets: Tensor
    multipliers: Tensor
    width: float
    repetitions: int
    buckets: int

    def codes(self, x: Tensor) -> Tensor:
        """Return flat bucket numbers int32 `(n, R)` of rows `x` `(n, D)`."""
        projected = (x @ self.projections).view(len(x), self.repetitions, -1)
        if self.kind == "srp":
            bucket = ((projected > 0) * self.multipliers).sum(2)
        else:
            cell = torch.floor((projected + self.offsets) / self.width).long()
            bucket = (cell * self.multipliers).sum(2).remainder(_PRIME).remainder(self.buckets)
        return (bucket + self.buckets * torch.arange(self.repetitions, device=x.device)).int()


def draw_hash(
    kind: Literal["srp", "p-stable"],
    dimension: int,
    repetitions: int,
    hashes: int,
    generator: torch.Generator,
    device: torch.device,
    width: float = 1.0,
    buckets: int = 4096,
) -> Hash:
    """Draw random projections `(D, R hashes)`; `buckets` counts for "p-stable" only, "srp" has 2^hashes."""
    projections = torch.randn(dimension, repetitions * hashes, generator=generator)
    offsets = width * torch.rand(repetitions, hashes, generator=generator)
    if kind == "srp":
        multipliers, buckets = 2 ** torch.arange(hashes, device="cpu"), 2**hashes
    else:
        multipliers = torch.randint(1, _PRIME // 2**8, (repetitions, hashes), generator=generator)
    on_device = (projections.to(device), offsets.to(device), multipliers.to(device))
    return Hash(kind, *on_device, width, repetitions, buckets)


def hash_rows(hashing: Hash, rows: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return codes `(n, R)` of raw `rows` `(n, ...)` of any dtype, standardised as (x - mean) / scale, in chunks."""
    chunks = [hashing.codes((c.flatten(1).float() - mean) / scale) for c in torch.split(rows, _CHUNK)]
    return torch.cat(chunks)


def row_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean row `(D,)` and the root mean square distance from it, a scalar; in chunks.

    Angles between uncentred images are all small, so without the mean every pair would collide.
    """
    width, device = rows[0].numel(), rows.device
    total, squares = torch.zeros(width, device=device), torch.zeros((), device=device)
    for chunk in torch.split(rows, _CHUNK):
        total += chunk.flatten(1).float().sum(0)
    mean = total / len(rows)
    for chunk in torch.split(rows, _CHUNK):
        squares += (chunk.flatten(1).float() - mean).square().sum()
    return mean, (squares / len(rows)).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def new_table(repetitions: int, buckets: int, device: torch.device) -> Tensor:
    """Return an empty table `(R B, 2)`: score sums A and counts C."""
    return torch.zeros(repetitions * buckets, 2, device=device)


def sketch_update(table: Tensor, codes: Tensor, scores: Tensor, shares: Tensor) -> None:
    """Add `scores` and `shares` `(c,)` into the buckets `codes` `(c, R)`, in place: A += share s, C += share."""
    flat = codes.reshape(-1).long()
    repetitions = codes.shape[1]
    add_at(table[:, 0], flat, (scores * shares).repeat_interleave(repetitions))
    add_at(table[:, 1], flat, shares.repeat_interleave(repetitions))


def sketch_query(table: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return (sum_r A_r, sum_r C_r), each `(n,)`, for rows with `codes` `(n, R)`; their quotient is the estimate."""
    sums = torch.nn.functional.embedding_bag(codes, table, mode="sum")
    return sums[:, 0], sums[:, 1]


def collision_kernel(kind: Literal["srp", "p-stable"], rows: Tensor, hashes: int, width: float) -> Tensor:
    """Return k(x_i, x_j) `(n, n)` of standardised `rows` `(n, D)`, the probability that they share a bucket of a table.

    What the sketch converges to as R grows. Takes 2 n^2 D operations and 4 n^2 bytes.
    """
    unit = torch.nn.functional.normalize(rows, dim=1) if kind == "srp" else rows
    squares = rows.square().sum(1)
    kernel = torch.empty(len(rows), len(rows), device=rows.device)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        products = unit[part] @ unit.T
        if kind == "srp":
            kernel[part] = (1 - products.clamp_(-1, 1).arccos_() / math.pi).pow_(hashes)
        else:
            distance = (squares[part, None] + squares - 2 * products).clamp_min_(0).sqrt_()
            kernel[part] = pstable_collision(distance, width, hashes)
    return kernel


def require_memory_for_pairs(n: int, device: torch.device) -> None:
    """Raise `SettingError` where the host has no memory for `collision_kernel` of `n` rows."""
    needed, free = 4 * n**2, free_bytes()
    if device.type == "cpu" and needed > free:
        problem = f"keeps {needed / 2**30:.3g} GiB for the pairs of {n} samples, {free / 2**30:.3g} are free"
        raise SettingError("estimator", "exact", problem, "use 'sketch', or fewer samples")


def pstable_collision(distance: Tensor, width: float, hashes: int) -> Tensor:
    """Return the exact kernel of Gaussian p-stable hashing at L2 `distance` (Datar et al. 2004), to the power `hashes`.

    p(d) = 1 - 2 Phi(-w/d) - 2 d / (sqrt(2 pi) w) (1 - exp(-w^2 / (2 d^2))), and p(0) = 1.
    """
    ratio = width / distance.clamp_min(1e-12)
    tail: Tensor = 2 * torch.special.ndtr(-ratio)
    spread = 2 / (math.sqrt(2 * math.pi) * ratio) * -torch.expm1(-ratio.square() / 2)
    return (1 - tail - spread).clamp_min(0).pow(hashes)
