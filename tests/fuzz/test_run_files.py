"""Damaged, edited and hostile files of runs and studies: one line and exit code 2 from every command, or no effect."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from subsetopt_cli.main import run

from tests.fuzz.bounded import command
from tests.report.study.study_fixture import summary, write_study

SETTINGS = ["--model", "linear", "--subset-size", "40", "--max-iterations", "1", "--handoff", "none"]
COMMANDS = (["resume"], ["evaluate"], ["report"])
FILES = (
    "checkpoint.safetensors",
    "model.safetensors",
    "config.toml",
    "state.json",
    "result.json",
    "environment.json",
    "metrics.jsonl",
)
TIED = {"checkpoint.safetensors": ("resume",), "model.safetensors": ("evaluate",), "result.json": ("report",)}
CI = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MORE = settings(CI, max_examples=1500, derandomize=False)

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["\x1b[2J", "\x9b", "x" * 3000]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short finished run on 80 samples."""
    folder = tmp_path_factory.mktemp("runs")
    path, data = folder / "run", folder / "data.npz"
    np.savez(data, x_train=np.linspace(-1, 1, 240).reshape(80, 3).astype(np.float32), y_train=np.arange(80) // 40)
    arguments = ["--dataset", "npz", "--data-file", str(data), *SETTINGS, "--quiet", "--output", str(path)]
    assert run(["train", *arguments]) == 0
    return path


@pytest.fixture(autouse=True)
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rendering of figures, which takes most of the time and reads no file."""
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **how: buffer.write(b"figure"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that lays out the finished run afresh."""

    def copy() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return shutil.copytree(finished, tmp_path / "run")

    return copy


def tell(arguments: list[str], path: Path) -> int:
    """Run a command on `path`; a refusal is one clean line."""
    code, out, err = command(arguments[0], path, *arguments[1:], "--json")
    assert code in (0, 2), err
    assert "Traceback" not in err and "internal error" not in err
    assert not set(out + err) & set("\x1b\x9b\x00")
    if code == 2:
        assert out == "" and err.splitlines()[-1].startswith("Error: "), err
        assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1, err
    else:
        json.loads(out)
    assert not list(path.glob("*.tmp"))
    return code


def flip(path: Path, share: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(content)


@CI
@given(name=st.sampled_from(FILES[:2]), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit(copied: Callable[[], Path], name: str, share: float, bit: int) -> None:
    path = copied()
    flip(path / name, share, bit)
    for arguments in COMMANDS:
        if arguments[0] in TIED[name]:
            assert tell(list(arguments), path) == 2


@CI
@given(
    name=st.sampled_from(FILES), content=st.one_of(st.binary(max_size=200), JSON.map(lambda x: json.dumps(x).encode()))
)
def test_other_content(copied: Callable[[], Path], name: str, content: bytes) -> None:
    path = copied()
    (path / name).write_bytes(content)
    for arguments in reversed(COMMANDS):  # resume last: from its checkpoint it writes model and result again
        code = tell(list(arguments), path)
        if arguments[0] in TIED.get(name, ()):
            assert code == 2


@CI
@given(data=st.data())
def test_an_edited_entry_of_result_json(copied: Callable[[], Path], data: st.DataObject) -> None:
    path = copied()
    document = json.loads((path / "result.json").read_text())
    if data.draw(st.booleans(), "without a digest"):
        del document["digest"]
    holder: Any = document
    while True:
        key = data.draw(
            st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.integers(0, len(holder) - 1)
        )
        if not isinstance(holder[key], (dict, list)) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    before, holder[key] = holder[key], data.draw(JSON)
    (path / "result.json").write_text(json.dumps(document))
    code = tell(["report"], path)
    assert code == 2 or "digest" not in document or before == holder[key] or key == "digest"


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _deep(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "directory": _directory,
    "dangling": _dangling,
    "fifo": _fifo,
    "deep": _deep,
    "utf16": lambda path: path.write_bytes(b"\xff\xfe{\0"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_none(copied: Callable[[], Path], name: str) -> None:
    for change in KINDS.values():
        path = copied()
        change(path / name)
        for arguments in COMMANDS[::-1]:
            tell(list(arguments), path)


@pytest.mark.parametrize("hostile", [1e400, "1e999", None, [], 10**400])
def test_hostile_entries_of_a_study(tmp_path: Path, hostile: Any) -> None:
    for key in ("budgets", "results", "metric", "title"):
        study = write_study(tmp_path / key, {**summary(), key: hostile})
        assert tell(["report"], study) in (0, 2)
    for column in ("mean", "interval", "n"):
        content = summary()
        content["results"][0][column] = hostile
        tell(["report"], write_study(tmp_path / column, content))


@CI
@given(data=st.data())
def test_an_edited_entry_of_a_study(tmp_path: Path, data: st.DataObject) -> None:
    content = summary()
    key = data.draw(st.sampled_from(sorted(content)))
    entries = content[key]
    if isinstance(entries, list) and entries and isinstance(entries[0], dict) and data.draw(st.booleans()):
        entries[0][data.draw(st.sampled_from(sorted(entries[0])))] = data.draw(JSON)
    else:
        content[key] = data.draw(JSON)
    shutil.rmtree(tmp_path / "study", ignore_errors=True)
    tell(["report"], write_study(tmp_path / "study", content))


@pytest.mark.slow
@pytest.mark.timeout(0)
@MORE
@given(name=st.sampled_from(FILES[:2]), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_many_flipped_bits(copied: Callable[[], Path], name: str, share: float, bit: int) -> None:
    path = copied()
    flip(path / name, share, bit)
    for arguments in COMMANDS:
        if arguments[0] in TIED[name]:
            assert tell(list(arguments), path) == 2
