"""A small plotting kit that writes SVG as text: scales, ticks, axes and marks.

Colours and fonts are left to the style sheet of the page (light, dark and print differ), which a rendered bitmap or
matplotlib's own SVG could not follow. Coordinates are rounded to a tenth of a unit, so equal input gives equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from operator import itemgetter

import numpy as np

from subsetopt.report.study.paths import Floats, path_data

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 10, 44
FINE = 0.25  # of a pixel, which no eye sees
# Five dashes and nine colours, both taken by index, give 45 distinct lines before one repeats.
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2")
_COLOURS = 9
_SHAPES = 5
_NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Formatter = Callable[[float], str]


def number(value: float, digits: int = 3) -> str:
    """Format with `digits` significant digits, without exponents between 1e-4 and 1e6 or trailing zeros."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{float(text):.0f}" if abs(value) >= 1 else f"{float(text):f}".rstrip("0")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def labels(ticks: Sequence[float]) -> list[str]:
    """Format the ticks of an axis with as many digits as distinguish them, three at least."""
    for digits in range(3, 8):
        texts = [number(tick, digits) for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return texts


def percent(value: float) -> str:
    """Format a share as per cent for an axis."""
    return f"{number(100 * value)} %"


@dataclass(frozen=True)
class Scale:
    """Maps data between `low` and `high` to the pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a data value."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def json(self, **rules: object) -> str:
        """Return the range in data and in pixels for the page's script, with the `rules` that it must keep to."""
        ends = {"low": self.low, "high": self.high, "start": self.start, "end": self.end}
        return json.dumps({**ends, "log": self.log, **rules}, separators=(",", ":"))

    def ticks(self) -> list[float]:
        """Return round values inside the range: decades and their 2 and 5 on a log scale, else a nice step."""
        if self.log and self.high / self.low >= 5:
            return _log_ticks(self.low, self.high)
        return _linear_ticks(self.low, self.high)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(nice * magnitude for nice in _NICE_STEPS if nice * magnitude >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1,)):
        ticks = [part * 10.0**decade for decade in decades for part in parts]
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) <= 8:
            return inside
    return inside[:: math.ceil(len(inside) / 8)]


def _range(values: Sequence[float], *, log: bool, from_zero: bool = False) -> tuple[float, float]:
    """Return the data range with a margin, never empty."""
    low, high = min(values), max(values)
    if log:
        margin = max((high / low) ** 0.04, 1.02)
        return low / margin, high * margin
    if from_zero and low >= 0:
        return 0.0, high * 1.03 or 1.0
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


class Plot:
    """One set of axes; add marks, then ask for the SVG.

    `label` describes the picture to those who cannot see it. Marks of one method carry `data-s="INDEX"`, by which the
    page's script shows and hides them, and the class `cINDEX`, by which the style sheet colours them. The range of
    each axis stands beside them, for the script to scale it again when a method is hidden. `y_limits` are values that
    the y axis does not leave, such as 0 and 1 of a share.
    """

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        label: str,
        x_title: str,
        y_title: str,
        log_x: bool = False,
        log_y: bool = False,
        x_from_zero: bool = False,
        y_format: Formatter = number,
        y_limits: tuple[float, float] | None = None,
    ) -> None:
        low, high = _range(ys, log=log_y)
        if y_limits is not None:
            low, high = max(low, y_limits[0]), min(high, y_limits[1])
        self._x = Scale(*_range(xs, log=log_x, from_zero=x_from_zero), _LEFT, WIDTH - _RIGHT, log_x)
        self._y = Scale(low, high, HEIGHT - _BOTTOM, _TOP, log_y)
        self._zero, self._y_limits = x_from_zero, y_limits
        self._label, self._x_title, self._y_title, self._y_format = label, x_title, y_title, y_format
        self._marks: list[tuple[str, Callable[[float], str]]] = []

    def line(
        self, index: int, xs: Iterable[float], ys: Iterable[float], *, thin: bool = False, hidden: bool = False
    ) -> None:
        """Draw a line in the colour and dash of method `index`; a thin one is on other data than the axis says."""
        x, y = self._pixels(xs, ys)
        start = f'<path class="{"own" if thin else "line"}"{dash(index)} d="'
        self._add(index, lambda tolerance: f'{start}{path_data(x, y, tolerance)}"/>', hidden)

    def band(
        self, index: int, xs: Sequence[float], low: Sequence[float], high: Sequence[float], *, hidden: bool = False
    ) -> None:
        """Fill the area between two curves, faintly."""
        (x, top), (_, bottom) = self._pixels(xs, high), self._pixels(xs, low)
        start = '<path class="band" d="'

        def drawn(tolerance: float) -> str:
            back = path_data(x[::-1], bottom[::-1], tolerance).replace("M", "L", 1)
            return f'{start}{path_data(x, top, tolerance)}{back}Z"/>'

        self._add(index, drawn, hidden)

    def whisker(self, index: int, x: float, low: float, high: float, *, hidden: bool = False) -> None:
        """Draw a vertical interval."""
        at, ends = self._pixels([x, x], [low, high])
        d = f"M{_pixel(at[0])} {_pixel(ends[0])}V{_pixel(ends[1])}"
        path = f'<path class="whisker" d="{d}"/>'
        self._add(index, lambda _: path, hidden)

    def marker(self, index: int, x: float, y: float, title: str, *, hidden: bool = False) -> None:
        """Draw the marker of method `index`."""
        at, height = self._pixels([x], [y])
        shape = marker_path(index, float(at[0]), float(height[0]))
        mark = f'<path class="mark" d="{shape}"><title>{escape(title)}</title></path>'
        self._add(index, lambda _: mark, hidden)

    def steps(self, points: Sequence[tuple[float, float]]) -> None:
        """Draw a staircase through points ordered by x, as wide as the axes; it belongs to no method."""
        path = f"M{_pixel(self._x(points[0][0]))} {_pixel(self._y(points[0][1]))}"
        for x, y in points[1:]:
            path += f"H{_pixel(self._x(x))}V{_pixel(self._y(y))}"
        self._marks.append(("", lambda _: f'<path class="front" d="{path}H{10 * WIDTH}"/>'))

    def svg(self, tolerance: float = FINE) -> str:
        """Return the picture as an SVG element; lines are thinned to `tolerance` pixels."""
        # A nested <svg> clips: a line that the reader brings back may leave the range that was chosen without it.
        box = f"{_LEFT - 5} {_TOP - 5} {WIDTH - _LEFT - _RIGHT + 10} {HEIGHT - _TOP - _BOTTOM + 10}"
        x, y, width, height = box.split()
        groups = groupby(self._marks, key=itemgetter(0))
        marks = "".join(_group(start, [mark(tolerance) for _, mark in drawn]) for start, drawn in groups)
        body = f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}">{marks}</svg>'
        vertical = self._y.json(limits=self._y_limits, percent=self._y_format is percent)
        scales = f"data-x='{self._x.json(zero=self._zero)}' data-y='{vertical}'"
        head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._label)}" {scales}>'
        return f"{head}{self._axes()}{body}</svg>"

    def _add(self, index: int, content: Callable[[float], str], hidden: bool) -> None:
        off = " off" if hidden else ""
        self._marks.append((f'<g class="{colour(index)}{off}" data-s="{index}">', content))

    def _pixels(self, xs: Iterable[float], ys: Iterable[float]) -> tuple[Floats, Floats]:
        return np.array([self._x(x) for x in xs], dtype=float), np.array([self._y(y) for y in ys], dtype=float)

    def _axes(self) -> str:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        grid = "".join(f"M{_LEFT} {_pixel(self._y(tick))}H{right}" for tick in self._y.ticks())
        y_labels = "".join(
            f'<text x="{_LEFT - 6}" y="{_pixel(self._y(tick) + 4.5)}" text-anchor="end">{self._y_format(tick)}</text>'
            for tick in self._y.ticks()
        )
        x_labels = "".join(
            f'<text x="{_pixel(self._x(tick))}" y="{bottom + 17}" text-anchor="middle">{label}</text>'
            for tick, label in zip(self._x.ticks(), labels(self._x.ticks()), strict=True)
        )
        middle = _pixel((_TOP + bottom) / 2)
        titles = (
            f'<text class="axis" x="{(_LEFT + right) // 2}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self._x_title)}</text>"
            f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y_title)}</text>"
        )
        ticks = f'<g class="ticks"><path class="grid" d="{grid}"/>{y_labels}{x_labels}</g>'
        return f'{ticks}<path class="frame" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>{titles}'


def _group(start: str, marks: Iterable[str]) -> str:
    return f"{start}{''.join(marks)}{'</g>' if start else ''}"


def colour(index: int) -> str:
    """Return the style class that colours method `index`."""
    return f"c{index % _COLOURS}"


def dash(index: int) -> str:
    """Return the stroke-dasharray attribute of method `index`, empty for a solid line."""
    pattern = _DASHES[index % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def marker_path(index: int, x: float, y: float, r: float = 4.2) -> str:
    """Return the path of the marker of method `index`: disc, square, triangle, diamond, triangle on its tip."""
    if index % _SHAPES == 0:
        arc = f"{_pixel(r)} {_pixel(r)} 0 1 0"
        return f"M{_pixel(x - r)} {_pixel(y)}a{arc} {_pixel(2 * r)} 0a{arc} {_pixel(-2 * r)} 0"
    u, d, v = r * 0.88, r * 1.2, r * 0.95
    corners = {
        1: [(-u, -u), (u, -u), (u, u), (-u, u)],
        2: [(0, -d), (d, v), (-d, v)],
        3: [(0, -d), (d, 0), (0, d), (-d, 0)],
        4: [(0, d), (d, -v), (-d, -v)],
    }[index % _SHAPES]
    return "M" + "L".join(f"{_pixel(x + dx)} {_pixel(y + dy)}" for dx, dy in corners) + "Z"


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
