"""In which order classes take their turns, so that every prefix has each class's share to within one row."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def class_sequence(counts: NDArray[np.int64], offsets: NDArray[np.float64], length: int) -> NDArray[np.int64]:
    """Return the classes of places 1 to `length`: after K places class c has had K n_c / n turns, within one.

    This is the chairman assignment problem (Tijdeman 1980): turn j = 0, 1, ... of class c must come at a place K with
    j n / n_c < K <= ceil((j + 1) n / n_c), and such an order always exists. Wanted for turn j is the random place
    n (j + u_c) / n_c with u_c = offsets[c] in (0, 1); the wish is granted unless a later deadline would be missed.
    By Hall's theorem for intervals none is missed as long as, for every place b still to come, the turns taken so far
    whose deadline is after b number at most slack(b) = b - (turns with a deadline up to b).

    `counts` are n_c > 0, shape (C,); `length` is at most n = sum(counts).
    """
    n = int(counts.sum())
    slack = _slack(counts, n)
    sizes, wishes = counts.tolist(), offsets.tolist()
    taken = [0] * len(sizes)
    waiting = [(1, c) for c in range(len(sizes))]
    ready: list[tuple[float, int]] = []
    sequence = np.empty(length, np.int64)
    for place in range(1, length + 1):
        while waiting and waiting[0][0] <= place:
            _, c = heapq.heappop(waiting)
            heapq.heappush(ready, ((taken[c] + wishes[c]) / sizes[c], c))
        postponed = []
        while True:
            turn = heapq.heappop(ready)
            c = turn[1]
            ahead = slack[place : -(-(taken[c] + 1) * n // sizes[c])]
            if ahead.size == 0 or ahead.min() > 0:
                break
            postponed.append(turn)
        ahead -= 1
        for other in postponed:
            heapq.heappush(ready, other)
        sequence[place - 1] = c
        taken[c] += 1
        if taken[c] < sizes[c]:
            heapq.heappush(waiting, (taken[c] * n // sizes[c] + 1, c))
    return sequence


def _slack(counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    turns = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    deadlines = -(-(turns + 1) * n // np.repeat(counts, counts))
    return np.arange(n + 1) - np.cumsum(np.bincount(deadlines, minlength=n + 1))
