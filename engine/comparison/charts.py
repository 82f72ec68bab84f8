"""Charts of a group of runs: accuracy against cost, and the course of validation."""

import math
from collections.abc import Sequence

import numpy as np

from common.drawing import fitting
from engine.comparison.groups import Group
from engine.comparison.marks import Dot, Line, Mark, Text, to_pixels
from engine.comparison.run_result import RunResult

WIDTH, HEIGHT = 460, 330  # of one chart
LEFT, RIGHT, TOP, BOTTOM = 46, 34, 36, 44  # around its plot
LINE = 22  # of the list of runs


class Axis:
    """Values -> pixels between `start` and `end`, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, whole: bool = False):
        step = _round_step((high - low) / 5)
        if whole:
            step = max(step, 1)
        self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
        self.start, self.end = start, end
        number = round((self.high - self.low) / step)
        self.ticks = [round(self.low + i * step, 10) for i in range(number + 1)]

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _round_step(step: float) -> float:
    """The next larger of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def cost_chart(group: Group) -> list[Mark]:
    """Accuracy against GMACs: of the test where one run is tested, else of the best validation. A run's number is the
    one it has in the list; the line through a dot is its 95 % interval."""
    tested = [run for run in group.tested() if not run.test.leak]
    values = {run.name: (run.test.top1, run.test.interval) for run in tested}
    what = "test video top-1, %"
    if not tested:
        values = {run.name: (run.best_val, None) for run in group.runs if run.best_val is not None}
        what = "best validation video top-1, %"
    shown = [run for run in group.runs if run.name in values and run.gmacs is not None]
    if not shown:
        return _nothing(what, "no run has both an accuracy and GMACs")
    bounds = [bound for run in shown for bound in (values[run.name][1] or ()) + (values[run.name][0],)]
    x = Axis(0, max(run.gmacs for run in shown) * 1.05 or 1, LEFT, WIDTH - RIGHT)
    y = _percent_axis(bounds)
    marks = _frame(x, y, what, "GMACs a clip")
    for run in shown:
        number, (top1, interval) = group.runs.index(run), values[run.name]
        if interval:
            low, high = (y.at(bound) for bound in interval)
            across = x.at(run.gmacs)
            marks.append(Line([(across, low), (across, high)], number, 2))
        marks.append(Dot(x.at(run.gmacs), y.at(top1), number, 6))
    places = [(x.at(run.gmacs), y.at(values[run.name][0])) for run in shown]
    return marks + _labels(group, shown, places)


def _labels(group: Group, runs: Sequence[RunResult], places: list[tuple[float, float]]) -> list[Mark]:
    """Each run's number, right of its place; one that had to give way to another has a line to where it belongs."""
    marks: list[Mark] = []
    for run, (x, y), (left, up) in zip(runs, places, _apart(places), strict=True):
        number = group.runs.index(run)
        if abs(up - y) > 3:
            marks.append(Line([(x, y), (left + 10, up)], number))
        marks.append(Text(str(number + 1), left + 12, up, "text", 13, bold=True))
    return marks


def _apart(places: list[tuple[float, float]], least: float = 15) -> list[tuple[float, float]]:
    """The same places, those that lie beside each other moved down until their labels do not overlap."""
    moved: dict[int, tuple[float, float]] = {}
    for number in sorted(range(len(places)), key=lambda number: places[number][1]):
        left, up = places[number]
        for other, height in sorted(moved.values(), key=lambda place: place[1]):
            if abs(other - left) < 22 and abs(height - up) < least:
                up = height + least
        moved[number] = (left, up)
    return [moved[number] for number in range(len(places))]


def curve_chart(group: Group) -> list[Mark]:
    """Validation video top-1 after each epoch."""
    what = "validation video top-1, %"
    shown = [run for run in group.runs if run.curve]
    if not shown:
        return _nothing(what, "no run has a validation")
    points = [point for run in shown for point in run.curve]
    x = Axis(0, max(epoch for epoch, _ in points), LEFT, WIDTH - RIGHT, whole=True)
    y = _percent_axis([top1 for _, top1 in points])
    marks = _frame(x, y, what, "epoch")
    for run in reversed(shown):  # the best on top
        number = group.runs.index(run)
        line = [(x.at(epoch), y.at(top1)) for epoch, top1 in run.curve]
        marks.append(Line(line, number, 2) if len(line) > 1 else Dot(*line[0], number, 3))
    ends = [(x.at(run.curve[-1][0]), y.at(run.curve[-1][1])) for run in shown]
    return marks + _labels(group, shown, ends)


def _percent_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = max(low - 5, 0), min(high + 5, 100)
    return Axis(low, high, HEIGHT - BOTTOM, TOP)


def _frame(x: Axis, y: Axis, what: str, of: str) -> list[Mark]:
    marks: list[Mark] = [Text(what, 8, 14, "text", 14, bold=True)]
    for tick in y.ticks:
        marks.append(Line([(LEFT, y.at(tick)), (WIDTH - RIGHT, y.at(tick))], "grid"))
        marks.append(Text(f"{tick:g}", LEFT - 8, y.at(tick), "quiet", 12, "right"))
    for tick in x.ticks:
        marks.append(Line([(x.at(tick), HEIGHT - BOTTOM), (x.at(tick), HEIGHT - BOTTOM + 4)], "quiet"))
        marks.append(Text(f"{tick:g}", x.at(tick), HEIGHT - BOTTOM + 15, "quiet", 12, "middle"))
    marks.append(Line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "quiet"))
    marks.append(Text(of, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "quiet", 12, "middle"))
    return marks


def _nothing(what: str, why: str) -> list[Mark]:
    return [Text(what, 8, 14, "text", 14, bold=True), Text(why, WIDTH / 2, HEIGHT / 2, "quiet", 13, "middle")]


def draw_charts(groups: Sequence[Group]) -> np.ndarray:
    """-> (H, W, 3) uint8 RGB: for each group both charts, and the list of its runs with their numbers."""
    return np.concatenate([_draw_group(group) for group in groups])


def _draw_group(group: Group) -> np.ndarray:
    heading, rows = 44, -(-len(group.runs) // 2)
    height = heading + HEIGHT + 12 + LINE * rows + 16
    marks: list[Mark] = [Text(group.title, 8, 20, "text", 17, bold=True)]
    marks += [_moved(mark, 0, heading) for mark in cost_chart(group)]
    marks += [_moved(mark, WIDTH, heading) for mark in curve_chart(group)]
    for number, run in enumerate(group.runs):
        left, up = 20 + WIDTH * (number // rows), heading + HEIGHT + 12 + LINE * (number % rows) + LINE / 2
        marks += [Dot(left, up, number, 5), Text(f"{number + 1}", left + 26, up, "text", 13, "right", bold=True)]
        marks.append(Text(fitting(_described(run), WIDTH - 80, 13), left + 34, up, "text", 13))
    return to_pixels(marks, 2 * WIDTH, height)


def _described(run: RunResult) -> str:
    return run.name if run.model in run.name else f"{run.name} ({run.model})"


def _moved(mark: Mark, right: float, down: float) -> Mark:
    if isinstance(mark, Line):
        return Line([(x + right, y + down) for x, y in mark.points], mark.colour, mark.width)
    if isinstance(mark, Dot):
        return Dot(mark.x + right, mark.y + down, mark.colour, mark.radius)
    return Text(mark.text, mark.x + right, mark.y + down, mark.colour, mark.size, mark.align, mark.bold)
