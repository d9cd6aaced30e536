"""Random settings: the command ends in 0, 2 or 130 with a line, in bounded time, and leaves nothing half-written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subsetopt_cli.options import FILE_ONLY, flag_of

from subsetopt.compare.config import StudyConfig
from subsetopt.training.loop import Loop
from subsetopt.training.settings.run import RunConfig
from tests.fuzz.bounded import command

FIXED = {"dataset", "data_dir", "data_file", "output", "device", "compile", "cuda_graphs", "init_from", "rank_timeout"}
NAMES = sorted(set(RunConfig.model_fields) - FIXED - FILE_ONLY)
STUDY_NAMES = sorted(set(StudyConfig.model_fields) - {"method"})
TYPED = """none auto tune full lbfgs ncg newton-cg kfac-stream sgd adam adamw muon srs validation noise minimum cost
best resolve disjoint linear mlp cnn digits mse cross_entropy float64 kfac diagonal true 1e300 nan -inf 0x10
lbfgs@0.1+full adam,sgd srs@0.1 1,3,10"""
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([10**5, 10**9, 2**63, 10**30, -(2**63)]),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([1e300, 1e-300, 5e-324, 1.0000001, 1 - 1e-9]),
)
WORDS = st.one_of(
    st.sampled_from(TYPED.split()),
    st.text(max_size=8),
    st.sampled_from(["\x1b[31m", "\x9b", "a" * 5000, "\u202e", "../..", "", " ", "os:system"]),
)
SCALARS = st.one_of(NUMBERS, WORDS, st.booleans())
KEYS = st.one_of(st.sampled_from(["memory", "width", "depth", "damping", "fraction", "rate"]), st.text(max_size=5))
TABLES = st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=2)
VALUES = st.one_of(SCALARS, SCALARS, st.lists(SCALARS, max_size=3), TABLES)
BASE = {"model": "linear", "handoff": "none", "max_epochs": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 samples of three features and two classes."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.normal(size=(60, 3)).astype(np.float32), y_train=np.arange(60) % 2)
    return path


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop every run before its first step."""
    monkeypatch.setattr(Loop, "run", lambda self, position: False)


def check(code: int, err: str, output: Path) -> None:
    """Settings that are refused leave one line and nothing else; those that are taken make a run."""
    assert code in (0, 2, 130), err
    assert "Traceback" not in err and "internal error" not in err
    assert not set(err) & set("\x1b\x9b\x00\u202e")
    if code == 2:
        assert err.startswith("Error: ") and len(err.splitlines()) == 1, err
        assert not output.exists(), err
    else:
        assert (output / "config.toml").is_file()
    if output.exists():
        assert not list(output.rglob("*.tmp"))


def toml(content: dict[str, Any]) -> str | None:
    """Return the content as TOML, None where TOML cannot say it."""
    try:
        return tomli_w.dumps(content)
    except (TypeError, ValueError, UnicodeError):
        return None


CI = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MORE = settings(CI, max_examples=3000, derandomize=False)


def files(data: Path, content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = toml({**BASE, **content})
        if text is None:
            return
        config, output = Path(folder) / "run.toml", Path(folder) / "run"
        try:
            config.write_text(text, encoding="utf-8")
        except UnicodeEncodeError:
            return
        arguments = ["--dataset", "npz", "--data-file", data, "--config", config, "--output", output, "--quiet"]
        code, _, err = command("train", *arguments)
        check(code, err, output)


def flags(data: Path, content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        arguments: list[object] = ["--dataset", "npz", "--data-file", data, "--output", output, "--quiet"]
        for name, value in {**BASE, **content}.items():
            if RunConfig.model_fields[name].annotation is bool:
                arguments.append(flag_of(name) if value else f"--no-{flag_of(name)[2:]}")
            elif isinstance(value, dict):
                arguments += [f"{flag_of(name)}={key}={item}" for key, item in value.items()]
            else:
                arguments.append(f"{flag_of(name)}={value}")
        code, _, err = command("train", *arguments)
        check(code, err, output)


CONTENT = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3)


@CI
@given(content=CONTENT)
def test_files(data: Path, no_training: None, content: dict[str, Any]) -> None:
    files(data, content)


@CI
@given(content=CONTENT)
def test_flags(data: Path, no_training: None, content: dict[str, Any]) -> None:
    flags(data, content)


@CI
@given(content=st.dictionaries(st.sampled_from(STUDY_NAMES), VALUES, min_size=1, max_size=2))
def test_studies(data: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]) -> None:
    studies(data, monkeypatch, content)


def studies(data: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]) -> None:
    from subsetopt.study.workers import StudyInterrupted

    def interrupted(*arguments: Any, **others: Any) -> None:
        raise StudyInterrupted

    monkeypatch.setattr("subsetopt.compare.run.tune", interrupted)
    with tempfile.TemporaryDirectory() as folder:
        text = toml({"methods": ["lbfgs@0.5", "adam"], "budget": [1.0], "model": "linear", **content})
        config, output = Path(folder) / "study.toml", Path(folder) / "study"
        try:
            config.write_text(text or "", encoding="utf-8")
        except UnicodeEncodeError:
            return
        if text is None:
            return
        arguments = ["--dataset", "npz", "--data-file", data, "--config", config, "--output", output, "--quiet"]
        code, _, err = command("compare", *arguments)
        assert code in (2, 130), err
        assert "Traceback" not in err and "internal error" not in err
        assert (code == 2) == (not output.exists())


@pytest.mark.slow
@pytest.mark.timeout(0)
@MORE
@given(content=CONTENT, as_file=st.booleans())
def test_many_settings(data: Path, no_training: None, content: dict[str, Any], as_file: bool) -> None:
    (files if as_file else flags)(data, content)


@pytest.mark.slow
@pytest.mark.timeout(0)
@MORE
@given(content=st.dictionaries(st.sampled_from(STUDY_NAMES), VALUES, min_size=1, max_size=2))
def test_many_studies(data: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]) -> None:
    studies(data, monkeypatch, content)
