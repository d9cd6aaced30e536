"""The figure shows the numbers of metrics.jsonl, and is written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from subsetopt.documents.run import LossOf
from subsetopt.errors import RunDirectoryError, SettingError
from subsetopt.report import figure, loss_figure


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """Collects the axes that the code under test draws on."""
    drawn: list[Axes] = []
    dress = figure._dress

    def keep(axes: Axes, *rest: Any) -> None:
        drawn.append(axes)
        dress(axes, *rest)

    monkeypatch.setattr(figure, "_dress", keep)
    return drawn


def test_curves_are_the_recorded_losses_against_the_recorded_cost(run_directory: Path, axes: list[Axes]) -> None:
    path = loss_figure(run_directory)
    assert path.read_bytes().startswith(b"\x89PNG")
    lines = {line.get_label(): line for line in axes[0].get_lines() if not str(line.get_label()).startswith("_")}
    assert list(lines) == [
        "warm-up: adam, mean over the latest mini-batches of the subset, with L2",
        "subset solve: lbfgs, loss on the subset, with L2",
        "hand-off: lbfgs, loss on the full training set, with L2",
    ]
    warmup, _, handoff = lines.values()
    assert len(warmup.get_xdata()) == 19, "the record without a loss is left out"
    assert list(handoff.get_ydata())[:2] == [0.65, 0.6 * 0.7 + 0.05]
    assert warmup.get_linestyle() != handoff.get_linestyle(), "subset and full objective differ in style"
    assert axes[0].get_yscale() == "log"


def test_title_names_data_model_and_ratio_and_falls_back_to_the_directory(
    run_directory: Path, result: dict[str, Any], axes: list[Axes]
) -> None:
    (run_directory / "result.json").unlink()
    loss_figure(run_directory, result)
    loss_figure(run_directory)
    assert "Q = 2.11" in axes[0].get_title(loc="left")
    assert axes[1].get_title(loc="left") == run_directory.name


def test_losses_below_zero_are_drawn_on_a_linear_scale(run_directory: Path, axes: list[Axes]) -> None:
    line = '{"phase": 0, "role": "solve", "method": "ncg", "data": "subset", "loss": -1.0, "epoch_equivalents": 1.0}'
    (run_directory / "metrics.jsonl").write_text(line + "\n")
    loss_figure(run_directory)
    assert axes[0].get_yscale() == "linear"


def _boxes(axes: Axes) -> list[Any]:
    return [text.get_window_extent() for text in axes.texts if text.get_text() and isinstance(text, Annotation)]


def test_labels_at_the_ends_do_not_cover_each_other_or_the_legend(run_directory: Path, axes: list[Axes]) -> None:
    """Three phases that end almost at one point: before, their three labels lay on top of each other."""
    ends = [(1.0, 0.5), (1.001, 0.5001), (1.002, 0.4999), (1.003, 0.5)]
    lines = [
        {"phase": i, "role": "solve", "method": "lbfgs", "data": "subset", "loss": loss, "epoch_equivalents": cost}
        for i, end in enumerate(ends)
        for cost, loss in ((0.0, 1.0), end)
    ]
    (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss_figure(run_directory)
    boxes = [*_boxes(axes[0]), axes[0].get_legend().get_window_extent()]
    assert len(boxes) == 5, "all four labels found room"
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_labels_without_room_are_left_out_the_last_phase_first_served(run_directory: Path, axes: list[Axes]) -> None:
    lines = [
        {"phase": i, "role": "grow", "method": "lbfgs", "data": "subset", "loss": 0.5, "epoch_equivalents": 1.0}
        for i in range(40)
    ]
    lines[-1]["loss"] = 0.5001
    (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss_figure(run_directory)
    boxes = _boxes(axes[0])
    assert 1 <= len(boxes) < 40
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_the_change_of_data_is_marked_and_the_held_out_loss_is_a_line(run_directory: Path, axes: list[Axes]) -> None:
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    for line in lines[::10]:
        line["validation"] = {"loss": 0.3 + line["epoch_equivalents"] / 100, "accuracy": 0.9}
    (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss_figure(run_directory)
    (mark,) = [text for text in axes[0].texts if "from here" in text.get_text()]
    assert mark.get_text().startswith("full training set")
    last_on_subset = max(line["epoch_equivalents"] for line in lines if line["data"] == "subset")
    assert mark.get_position()[0] == pytest.approx(last_on_subset)
    (held_out,) = [line for line in axes[0].get_lines() if line.get_label() == "held-out loss, without L2"]
    assert held_out.get_xydata()[:, 0].tolist() == [line["epoch_equivalents"] for line in lines[::10]]
    assert held_out.get_xydata()[:, 1].tolist() == [line["validation"]["loss"] for line in lines[::10]]


def test_a_run_without_any_finite_loss_still_gets_its_figure(run_directory: Path, axes: list[Axes]) -> None:
    (run_directory / "metrics.jsonl").write_text("")
    assert loss_figure(run_directory).exists()
    assert "no finite loss" in axes[0].texts[0].get_text()


def test_a_corrupt_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl cannot be read"):
        loss_figure(tmp_path)


def test_a_failed_write_leaves_neither_half_a_figure_nor_a_temporary_file(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        loss_figure(run_directory)
    assert sorted(path.name for path in run_directory.iterdir()) == ["metrics.jsonl", "result.json"]


@pytest.mark.parametrize(
    ("role", "method", "data", "words"),
    [
        (
            "handoff",
            "sgd",
            "full",
            ": sgd, mean over the latest mini-batches of the full training set, with L2",
        ),
        ("handoff", "muon", "full", "mean over the latest mini-batches of the full training set, without weight decay"),
        ("solve", "kfac-stream", "full", "solve: kfac-stream, loss on each fresh mini-batch before its step, with L2"),
        ("grow", "lbfgs", "subset", "growing stage: lbfgs, loss on the subset of the stage, with L2"),
        ("solve", "lbfgs", "full", "solve: lbfgs, loss on the full training set, with L2"),
    ],
)
def test_the_legend_says_what_the_loss_is(
    role: str, method: str, data: str, words: str, run_directory: Path, axes: list[Axes]
) -> None:
    """Before: each of them was "loss on the full training set", whatever had been recorded."""
    line = {"phase": 0, "role": role, "method": method, "data": data, "loss": 0.5, "epoch_equivalents": 1.0}
    (run_directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (run_directory / "result.json").unlink()
    loss_figure(run_directory)
    assert axes[0].get_legend().get_texts()[0].get_text().endswith(words)


@pytest.mark.parametrize("kind", list(LossOf))
def test_the_legend_follows_what_the_phase_says_of_its_loss_whatever_the_method(
    kind: LossOf, run_directory: Path, axes: list[Axes]
) -> None:
    """Before: the words followed a list of five methods, and another optimizer's mean was an objective."""
    line = {"phase": 0, "role": "handoff", "method": "theirs", "data": "full", "loss": 0.5, "epoch_equivalents": 1.0}
    (run_directory / "metrics.jsonl").write_text(json.dumps({**line, "loss_of": str(kind)}) + "\n")
    (run_directory / "result.json").unlink()
    loss_figure(run_directory)
    (legend,) = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert ("mini-batches" in legend) == (kind in (LossOf.MINI_BATCHES, LossOf.MINI_BATCHES_WITHOUT_DECAY))
    assert ("with L2" in legend) == (kind != LossOf.MINI_BATCHES_WITHOUT_DECAY)


def test_disjoint_subsets_are_recorded_one_after_the_other(
    result: dict[str, Any], run_directory: Path, axes: list[Axes]
) -> None:
    result["phases"][1]["subsets"] = {
        "count": 1,
        "selected_by": "train",
        "then": "average",
        "minima": [{"loss": 0.1}],
        "average": {},
        "average_beats": [False],
        "best": 0,
    }
    loss_figure(run_directory, result)
    assert "loss on one of the subsets after the other" in axes[0].get_legend().get_texts()[1].get_text()


def test_an_svg_is_equal_for_equal_runs_and_holds_its_words_as_text(run_directory: Path) -> None:
    """Reference: an XML parser; the words are those of the PNG."""
    first = loss_figure(run_directory, name="loss.svg").read_bytes()
    words = {node.text for node in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")}
    assert "loss, as the legend says" in words
    assert any(text and "subset solve: lbfgs" in text for text in words)
    assert loss_figure(run_directory, name="loss.svg").read_bytes() == first
    assert not (run_directory / figure.FILE).exists()


@pytest.mark.parametrize("name", ["loss.pdf", "loss", ".svg", "loss.svg.txt"])
def test_another_format_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"suffix must be \.png or \.svg"):
        loss_figure(tmp_path, name=name)


def test_the_picture_of_the_readme_is_small_and_loads_nothing() -> None:
    picture = Path(__file__).parents[2] / "reports" / "first-run.svg"
    assert picture.stat().st_size < 60_000
    root = ElementTree.fromstring(picture.read_bytes())
    assert not [node for node in root.iter() if node.tag.endswith(("image", "script"))]
    assert "digits" in "".join(root.itertext())
