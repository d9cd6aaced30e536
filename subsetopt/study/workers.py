"""Work items of a study on local processes, Dask or Ray."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any, Literal, TypeVar

from subsetopt.errors import SettingError, setting

Backend = Literal["loky", "dask", "ray"]

LOOK = 0.5  # seconds between two looks whether the study that a worker works for is alive

Item = TypeVar("Item")


Result = TypeVar("Result")


class StudyInterrupted(Exception):  # noqa: N818 (an event, as in KeyboardInterrupt, not an error)
    """The study was asked to stop; what is finished or saved in its directory is used again."""


@dataclass(frozen=True)
class Workers:
    """Who runs the cells: `jobs` 1 with loky is this process; `scheduler` is the address of Dask's or Ray's cluster."""

    jobs: int = 1
    backend: Backend = "loky"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise SettingError("jobs", self.jobs, "is out of range", "give a whole number of at least 1")
        if self.backend == "loky" and self.jobs > (most := 8 * (os.cpu_count() or 1)):
            problem = f"this machine has {os.cpu_count()} processors, {most} processes are the most"
            raise SettingError("jobs", self.jobs, problem, f"give {os.cpu_count()}, or {setting('backend', 'dask')}")
        if self.backend == "loky" and self.scheduler is not None:
            raise SettingError(
                "scheduler",
                self.scheduler,
                "is for a cluster",
                f"add {setting('backend', 'dask')} or {setting('backend', 'ray')}",
            )
        if self.backend == "dask" and self.scheduler is None:
            raise SettingError(
                "scheduler",
                None,
                "Dask needs its scheduler's address",
                f"use {setting('scheduler', 'tcp://HOST:8786')}",
            )
        needed = {"dask": "distributed", "ray": "ray"}.get(self.backend)
        if needed is not None and importlib.util.find_spec(needed) is None:
            remedy = "pip install 'subsetopt[cluster]'" if needed == "distributed" else "pip install ray"
            raise SettingError("backend", self.backend, "is not installed", remedy)

    @property
    def here(self) -> bool:
        """True when this process runs the cells itself."""
        return self.backend == "loky" and self.jobs == 1

    @property
    def threads(self) -> int | None:
        """Torch's threads in each worker: the processor's, shared; one on a cluster; None leaves them alone."""
        if self.here:
            return None
        return max(1, (os.cpu_count() or 1) // self.jobs) if self.backend == "loky" else 1


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `StudyInterrupted` in the block on Ctrl-C and, in the main thread, on a termination signal."""
    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise StudyInterrupted from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def each(work: Callable[[Item], Result], items: Sequence[Item], workers: Workers) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) as they are finished; `work` and items must be picklable unless workers are here."""
    if workers.here or not items:
        for item in items:
            yield item, work(item)
        return
    import joblib

    study = os.getpid() if workers.backend == "loky" else None
    tasks = [joblib.delayed(_numbered)(study, index, work, item) for index, item in enumerate(items)]
    with _backend(workers) as jobs:
        try:
            parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all")
            results = parallel(tasks)
        except ValueError:  # a backend that can only return everything at the end
            results = joblib.Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="all")(tasks)
        for index, result in results:
            yield items[index], result


def _numbered(study: int | None, index: int, work: Callable[[Item], Result], item: Item) -> tuple[int, Result]:
    if study is not None:
        _end_with(study)
        if os.getppid() != study:  # what it had asked for before it was killed
            os._exit(1)
    return index, work(item)


@cache
def _end_with(study: int) -> None:
    """Let this worker save its run and stop once the process `study`, its parent, is gone."""

    def watch() -> None:
        while os.getppid() == study:
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="study-alive").start()


@contextmanager
def _backend(workers: Workers) -> Iterator[int]:
    """Connect to the cluster, if any, and yield the number of jobs for joblib."""
    import joblib

    with ExitStack() as stack:
        if workers.backend == "loky":
            stack.enter_context(_quiet_end())
        if workers.backend == "dask":
            stack.enter_context(_dask_client(workers.scheduler))
        elif workers.backend == "ray":
            _connect_ray(workers.scheduler)
        stack.enter_context(joblib.parallel_config(backend=workers.backend))
        yield workers.jobs if workers.backend == "loky" or workers.jobs > 1 else -1


@contextmanager
def _quiet_end() -> Iterator[None]:
    """Keep loky from printing what an interruption leaves undone: its thread's traceback, its tracker's warnings."""
    previous = threading.excepthook
    filters = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (filters, "ignore:resource_tracker:UserWarning")))

    def hook(args: threading.ExceptHookArgs) -> None:
        manager = args.thread is not None and args.thread.name == "ExecutorManagerThread"
        if not (manager and issubclass(args.exc_type, KeyError)):
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
        if filters is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = filters


def _dask_client(scheduler: str | None) -> Any:
    from distributed import Client

    try:
        return Client(scheduler, timeout=20, set_as_default=True)
    except (OSError, TimeoutError, ValueError) as error:
        raise SettingError("scheduler", scheduler, f"cannot be reached ({error})", "is `dask scheduler` up?") from None


def _connect_ray(scheduler: str | None) -> None:
    import ray
    from ray.util.joblib import register_ray

    ray.init(address=scheduler, ignore_reinit_error=True)
    register_ray()
