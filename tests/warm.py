"""A process that has imported the command line once and forks a child for every command it is given.

A test that kills, signals or counts processes needs real ones, but not the seconds of CPU that each takes to import
torch. One request is one line of JSON on standard input: arguments, environment and the files for the child's streams;
the child's number is written back. Its exit status goes to the file `status`, as `subprocess` would give it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# What commands import as they go.
USED = (
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "sklearn.datasets",
    "subsetopt.compare.run",
    "subsetopt.training.resume",
    "subsetopt.training.run",
    "torch._dynamo",
    "torch.func",
)


class Command:
    """One `subsetopt ARGUMENTS` in a process of its own; poll, signal and communicate as `subprocess.Popen` does."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None as long as the process lives."""
        if self.returncode is None and (self.folder / "status").exists():
            self.returncode = int((self.folder / "status").read_text())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, if it still lives."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for the end and return what was written on standard output and standard error."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired("subsetopt", timeout, *self._written())
            time.sleep(0.005)
        return self._written()

    def _written(self) -> tuple[str, str]:
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return out, err


class Interpreter:
    """The forking process, as the tests see it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, text=True, **pipes)

    def start(self, *arguments: object, **variables: object) -> Command:
        """Start `subsetopt ARGUMENTS` with further environment variables."""
        folder = self.folder / str(self.count)
        folder.mkdir()
        self.count += 1
        told = {name: str(value) for name, value in variables.items()}
        request = {"arguments": [str(word) for word in arguments], "environment": told, "folder": str(folder)}
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        print(json.dumps(request), file=stdin, flush=True)
        return Command(int(stdout.readline()), folder)

    def close(self) -> None:
        """End the forking process; children go on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve() -> None:
    """Fork a child per request, one more process in between to wait for it and write down its status."""
    from subsetopt_cli.main import main

    for name in USED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        if not os.fork():
            os.close(reading)
            wait_for_a_child(request, writing, main)
        os.close(writing)
        print(os.read(reading, 32).decode(), flush=True)
        os.close(reading)
        reap()


def reap() -> None:
    """Take leave of the processes in between that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait_for_a_child(request: dict[str, Any], writing: int, main: Any) -> None:
    """Run the command in a child; tell its number; write its exit status where it is looked for."""
    child = os.fork()
    if not child:
        os.close(writing)
        run_command(request, main)
    os.write(writing, str(child).encode())
    os.close(writing)
    _, status = os.waitpid(child, 0)
    folder = Path(request["folder"])
    (folder / "waiting").write_text(str(os.waitstatus_to_exitcode(status)))
    (folder / "waiting").rename(folder / "status")
    os._exit(0)


def run_command(request: dict[str, Any], main: Any) -> None:
    """Become the command: streams, environment, arguments and exit status are its own."""
    folder = Path(request["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    sys.argv = ["subsetopt", *request["arguments"]]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
