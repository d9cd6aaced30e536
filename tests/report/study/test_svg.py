"""Scales map exactly, ticks are round and inside, marks differ, and text is escaped."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from subsetopt.report.study.svg import Plot, Scale, colour, dash, labels, marker_path, number


def test_scales_map_ends_and_middle() -> None:
    linear, log = Scale(0.0, 10.0, 50.0, 350.0), Scale(0.01, 100.0, 200.0, 0.0, log=True)
    assert [linear(v) for v in (0, 5, 10)] == [50.0, 200.0, 350.0]
    assert [log(v) for v in (0.01, 1, 100)] == pytest.approx([200.0, 100.0, 0.0])


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (Scale(0.0, 10.0, 0, 1), [0, 2, 4, 6, 8, 10]),
        (Scale(0.87, 0.96, 0, 1), [0.88, 0.9, 0.92, 0.94, 0.96]),
        (Scale(-1.0, 1.0, 0, 1), [-1, -0.5, 0, 0.5, 1]),
        (Scale(0.9, 30.0, 0, 1, log=True), [1, 2, 5, 10, 20]),
        (Scale(1e-6, 1e3, 0, 1, log=True), None),
        (Scale(2.1, 3.9, 0, 1, log=True), [2.5, 3, 3.5]),
    ],
)
def test_ticks_are_round_and_inside(scale: Scale, expected: list[float] | None) -> None:
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(scale.low * (0.999 if scale.low > 0 else 1.001) <= tick <= scale.high * 1.001 for tick in ticks)
    if expected is None:
        assert all(math.log10(tick) == pytest.approx(round(math.log10(tick))) for tick in ticks)
    else:
        assert ticks == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1230"),
        (123456.0, "123000"),
        (0.00123, "0.00123"),
        (-2.5, "−2.5"),
        (1e-7, "1e-07"),
        (10.0, "10"),
    ],
)
def test_numbers_are_short_and_without_needless_exponents(value: float, text: str) -> None:
    assert number(value) == text


def test_forty_five_methods_have_different_lines_and_neighbours_different_markers() -> None:
    assert len({(colour(index), dash(index)) for index in range(45)}) == 45
    assert len({marker_path(index, 0, 0) for index in range(5)}) == 5


def test_a_constant_is_drawn_and_text_is_escaped() -> None:
    plot = Plot([1.0], [2.0], label='<a> & "b"', x_title="<x>", y_title="y", log_y=True)
    plot.marker(0, 1.0, 2.0, "<script>")
    plot.band(1, [1.0], [2.0], [2.0], hidden=True)
    root = ElementTree.fromstring(plot.svg())
    assert root.get("aria-label") == '<a> & "b"'
    assert "<x>" in {element.text for element in root.iter("text")}
    assert [group.get("class") for group in root.iter("g")] == ["ticks", "c0", "c1 off"]


def test_labels_have_as_many_digits_as_tell_ticks_apart():
    assert labels([0.5, 1.0, 1.5]) == ["0.5", "1", "1.5"]
    assert labels([0.998, 0.9985, 0.999, 0.9995, 1.0]) == ["0.998", "0.9985", "0.999", "0.9995", "1"]
    assert labels([]) == []
