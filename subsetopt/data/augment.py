"""Fixed augmented copies: they raise K, and so the overdetermination ratio, without making the objective random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from subsetopt.data.given.memory import require_room
from subsetopt.data.streams import raw_stream
from subsetopt.errors import SettingError, setting, unknown_name

KINDS = ("auto", "shift", "shift-flip")
_COLOUR_CHANNELS = 3


def augmented_copies(inputs: Tensor, copies: int, seed: int, kind: str = "auto") -> Tensor:
    """Return `copies` augmented copies of the images (k, C, H, W): shape (copies * k, C, H, W), dtype as given.

    Row a*k + i is copy a of image i; the originals are not included, so K samples with A copies make (A + 1) K. A
    copy is shifted by at most an eighth of the side (never by nothing: a duplicate would add no equation) with zeros
    moving in; `shift-flip` also mirrors every other one left to right, and `auto` does so for colour images only,
    since a mirrored digit is another sign. For one seed the first copies do not depend on how many there are.

    Raises `SettingError` for inputs that are not images, for a negative number of copies, and for more than fit into
    memory.
    """
    if kind not in KINDS:
        raise unknown_name("augmentation", kind, KINDS)
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 0:
        raise SettingError(
            "augment_copies", copies, "must be a whole number from 0", f"try {setting('augment_copies', 1)}"
        )
    if inputs.ndim != 4:
        shape = tuple(inputs.shape[1:])
        problem = f"needs images (C, H, W), the inputs have shape {shape}"
        raise SettingError("augment_copies", copies, problem, f"use {setting('augment_copies', 0)}")
    if copies == 0:
        return inputs[:0]
    # The copies one by one, and all together.
    require_room("augment_copies", copies, 2 * copies * inputs.nbytes, "use fewer, or a smaller subset", inputs.device)
    flip = kind == "shift-flip" or (kind == "auto" and inputs.shape[1] == _COLOUR_CHANNELS)
    return torch.cat([_copy(inputs, seed, number, flip) for number in range(copies)])


def _copy(inputs: Tensor, seed: int, number: int, flip: bool) -> Tensor:
    k, _, height, width = inputs.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    words = raw_stream(seed, f"copy-{number}", 2 * k)
    rows, columns = 2 * reach_y + 1, 2 * reach_x + 1
    # Shift number 0 is "no shift" once the grid is rotated so that its centre comes first.
    centre = reach_y * columns + reach_x
    shift = (centre + 1 + (words[:k] % np.uint64(rows * columns - 1)).astype(np.int64)) % (rows * columns)
    dy, dx = np.divmod(shift, columns)
    y = torch.from_numpy(dy)[:, None] + torch.arange(height)
    x = torch.from_numpy(dx)[:, None] + torch.arange(width)
    if flip:
        mirrored = torch.from_numpy((words[k:] >> np.uint64(63)).astype(np.bool_))
        x = torch.where(mirrored[:, None], x.flip(1), x)
    padded = F.pad(inputs, (reach_x, reach_x, reach_y, reach_y))
    each, y, x = (index.to(inputs.device) for index in (torch.arange(k)[:, None, None], y[:, :, None], x[:, None, :]))
    return padded.permute(0, 2, 3, 1)[each, y, x].permute(0, 3, 1, 2).contiguous()
