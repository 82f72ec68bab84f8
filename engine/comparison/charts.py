"""Charts of a group of runs: accuracy against cost, and the course of validation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.figures import BLACK, DPI, GREY, GRID, SERIES, new_figure, styled
from common.files import printable
from engine.comparison.groups import Group
from engine.comparison.run_result import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH, HEIGHT = 460, 330  # pixels of one chart
LEFT, RIGHT, TOP, BOTTOM = 46, 34, 36, 44  # around its plot
HEADING, LINE = 44, 22  # pixels of a group's title, and of a row in its list of runs
# of the first seven runs, which have the seven colours, of the next seven, ...
STYLES = (("o", "-", "\u25cf"), ("s", "--", "\u25a0"), ("^", ":", "\u25b2"), ("D", "-.", "\u25c6"))
LABEL_GAP = 15  # pixels between the labels of two runs


@styled
def draw_charts(groups: Sequence[Group]) -> "Figure":
    """One figure: for each group both charts, and the list of its runs with their numbers."""
    rows = [-(-len(group.runs) // 2) for group in groups]
    heights = [HEADING + HEIGHT + LINE * number + 28 for number in rows]
    figure = new_figure(2 * WIDTH, sum(heights))
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, group, height, number in zip(parts, groups, heights, rows, strict=True):
        _draw_group(part, group, height, number)
    return figure


@styled
def cost_figure(group: Group) -> "Figure":
    """The chart of accuracy against GMACs by itself."""
    figure = new_figure(WIDTH, HEIGHT)
    draw_cost(_plot(figure, 0, 0, WIDTH, HEIGHT), group)
    return figure


@styled
def curve_figure(group: Group) -> "Figure":
    """The chart of validation by itself."""
    figure = new_figure(WIDTH, HEIGHT)
    draw_curves(_plot(figure, 0, 0, WIDTH, HEIGHT), group)
    return figure


def draw_cost(axes: "Axes", group: Group) -> None:
    """Accuracy against GMACs: test accuracy where a run is tested, else the best validation. A run's number is the one
    in the list; the line through a dot is its 95 % interval."""
    tested = [run for run in group.tested() if not run.test.leak]
    values = {run.name: (run.test.top1, run.test.interval) for run in tested}
    title = "test video top-1, %"
    if not tested:
        values = {run.name: (run.best_val, None) for run in group.runs if run.best_val is not None}
        title = "best validation video top-1, %"
    shown = [run for run in group.runs if run.name in values and run.gmacs is not None]
    if not shown:
        _draw_nothing(axes, title, "no run has both an accuracy and GMACs")
        return
    _frame(axes, title, "GMACs per clip")
    for run in shown:
        top1, interval = values[run.name]
        if interval:
            axes.vlines(run.gmacs, *interval, color=_colour(group, run), linewidth=2)
        axes.plot(run.gmacs, top1, style_of(group, run)[0], color=_colour(group, run), markersize=9)
    axes.set_xlim(0, max(run.gmacs for run in shown) * 1.15 or 1)
    _label(axes, group, shown, [(run.gmacs, values[run.name][0]) for run in shown])


def draw_curves(axes: "Axes", group: Group) -> None:
    """Validation video top-1 after each epoch."""
    from matplotlib.ticker import MaxNLocator

    title = "validation video top-1, %"
    shown = [run for run in group.runs if run.curve]
    if not shown:
        _draw_nothing(axes, title, "no run has a validation")
        return
    _frame(axes, title, "epoch")
    for run in reversed(shown):  # the best on top
        marker, line, _ = style_of(group, run)
        style = line if len(run.curve) > 1 else marker
        axes.plot(*zip(*run.curve, strict=True), style, color=_colour(group, run), linewidth=2, markersize=5)
    axes.set_xlim(0, max(epoch for run in shown for epoch, _ in run.curve) * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _label(axes, group, shown, [run.curve[-1] for run in shown])


def _draw_group(part: "SubFigure", group: Group, height: int, num_rows: int) -> None:
    def write(text: str, x: float, down: float, **style) -> None:
        part.text(x / (2 * WIDTH), 1 - down / height, printable(text), va="center", **style)

    write(group.title, 8, 20, size=13, weight="bold")
    draw_cost(_plot(part, 0, HEADING, 2 * WIDTH, height), group)
    draw_curves(_plot(part, WIDTH, HEADING, 2 * WIDTH, height), group)
    for number, run in enumerate(group.runs):
        column, row = divmod(number, num_rows)
        left, down = 20 + WIDTH * column, HEADING + HEIGHT + 12 + LINE * (row + 0.5)
        write(style_of(group, run)[2], left, down, size=12, color=_colour(group, run), ha="center")
        write(f"{number + 1}", left + 26, down, size=9.5, weight="bold", ha="right")
        name = run.name if run.model in run.name else f"{run.name} ({run.model})"
        write(name if len(name) <= 58 else f"{name[:55]}...", left + 34, down, size=9.5)


def _plot(figure: "Figure | SubFigure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes for one chart whose upper left corner is at (left, top) in a figure of width x height pixels."""
    inside = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    bottom = height - top - HEIGHT + BOTTOM
    return figure.add_axes(((left + LEFT) / width, bottom / height, inside[0] / width, inside[1] / height))


def _frame(axes: "Axes", title: str, xlabel: str) -> None:
    axes.set_title(title, loc="left", x=-LEFT / (WIDTH - LEFT - RIGHT) + 0.02, size=10.5, weight="bold")
    axes.set_xlabel(xlabel, size=9)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(axis="both", colors=GREY, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.12)


def _draw_nothing(axes: "Axes", title: str, reason: str) -> None:
    _frame(axes, title, "")
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, color=GREY, size=9.5, ha="center", transform=axes.transAxes)


def _label(axes: "Axes", group: Group, runs: Sequence[RunResult], points: list[tuple[float, float]]) -> None:
    """Each run's number, right of its point; a number that gave way to another has a line to its point."""
    low, high = axes.get_ylim()
    pixels_per_unit = (HEIGHT - TOP - BOTTOM) / (high - low)
    x_per_pixel = (axes.get_xlim()[1] - axes.get_xlim()[0]) / (WIDTH - LEFT - RIGHT)
    places = [(x / x_per_pixel, -y * pixels_per_unit) for x, y in points]
    for run, point, (_, y), (_, moved) in zip(runs, points, places, _apart(places), strict=True):
        line = {"arrowstyle": "-", "color": _colour(group, run), "shrinkA": 0, "shrinkB": 0} if moved - y > 3 else None
        axes.annotate(
            str(group.runs.index(run) + 1),
            point,
            xytext=(12 * 72 / DPI, (y - moved) * 72 / DPI),
            textcoords="offset points",
            arrowprops=line,
            color=BLACK,
            size=9.5,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def _apart(positions: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places (x, y down, in pixels) with those that lie beside each other moved down until labels do not overlap."""
    moved: dict[int, tuple[float, float]] = {}
    for number in sorted(range(len(positions)), key=lambda number: positions[number][1]):
        left, down = positions[number]
        for other, height in sorted(moved.values(), key=lambda place: place[1]):
            if abs(other - left) < 22 and abs(height - down) < LABEL_GAP:
                down = height + LABEL_GAP
        moved[number] = (left, down)
    return [moved[number] for number in range(len(positions))]


def style_of(group: Group, run: RunResult) -> tuple[str, str, str]:
    """(marker, line style, sign of the list) of a run: runs that share a colour differ in these."""
    return STYLES[group.runs.index(run) // len(SERIES) % len(STYLES)]


def _colour(group: Group, run: RunResult) -> str:
    return SERIES[group.runs.index(run) % len(SERIES)]
