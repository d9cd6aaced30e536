"""Starts real processes as ranks, by the variables that torchrun sets, without waiting for torchrun itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

PATIENCE = 400


@dataclass
class Rank:
    """One process of a launch."""

    process: subprocess.Popen[str]

    def finish(self) -> tuple[int, str, str]:
        """Wait, and return exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


Launch = Callable[..., list[Rank]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Return `launch(size, *arguments) -> ranks` of `python *arguments`; whatever is left of them is killed."""
    started: list[Rank] = []

    def start(size: int, *arguments: object) -> list[Rank]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = []
        for rank in range(size):
            told = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": size,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in told.items()}
            command = [sys.executable, *map(str, arguments)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            ranks.append(Rank(subprocess.Popen(command, env=environment, text=True, **pipes)))
        started.extend(ranks)
        return ranks

    yield start
    for rank in started:
        if rank.process.poll() is None:
            rank.process.kill()
            rank.process.communicate()
