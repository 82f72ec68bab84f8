"""A comparison of runs as one .html file: table, charts, confusion, hard videos. It loads nothing from outside."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import date
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup

from common.console import plural
from common.figures import BLACK, GREY, GRID, SERIES, figure_svg
from engine.comparison.charts import cost_figure, curve_figure, style_of
from engine.comparison.groups import Group
from engine.comparison.run_result import RunResult
from engine.comparison.tables import COLUMNS, LEFT, Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
KINDS = {".png": "image/png", ".jpg": "image/jpeg"}
BEGINNINGS = {".png": b"\x89PNG\r\n", ".jpg": b"\xff\xd8"}
# colours of the charts -> variables of the page, which follow light and dark
VARIABLES = {BLACK: "--text", GREY: "--quiet", GRID: "--grid"} | {c: f"--s{n}" for n, c in enumerate(SERIES)}


def write_page(groups: Sequence[Group], remarks: Sequence[str]) -> str:
    """The text of the file. remarks: further notes for the reader, such as which runs are left out."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made = f"{plural(sum(len(group.runs) for group in groups), 'run')}, {date.today().isoformat()}"
    if len(groups) > 1:
        made += f". {plural(len(groups), 'table')}: numbers of different data sets or splits do not compare"
    template = Environment(autoescape=True).from_string((HERE / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title="Runs side by side",
        made=made,
        groups=groups,
        remarks=remarks,
        columns=(COLUMNS[0], COLUMNS[-1], *COLUMNS[1:-1]),  # what sets a run apart is read without scrolling
        left_columns=LEFT,
        series=SERIES,
        value_of=_value,
        chart=_chart,
        style_of=style_of,
        cost_figure=cost_figure,
        curve_figure=curve_figure,
        tested=lambda group: [run for run in group.runs if run.test is not None],
        pictures_of=_pictures,
        script=script,
        # the browser runs this one script and no other, whatever the names of runs and classes contain
        script_hash=f"sha256-{digest}",
    )


def _value(column: Column, run: RunResult) -> str:
    """The value that the page sorts by."""
    value = column.value(run)
    return "" if value is None else str(value)


def _chart(figure: "Figure", title: str) -> Markup:
    """The figure as an <svg> of the page, with its colours."""
    svg = figure_svg(figure)
    head, rest = svg[svg.index("<svg ") :].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)[0]
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", rest)
    return Markup(f'<svg {view_box} role="img" aria-label="{escape(title)}">{rest}')


def _pictures(run: RunResult) -> Iterator[tuple[str, str | None]]:
    """(description, data URI) of the confusion matrix and the sheet of mistakes that evaluate.py drew."""
    yield f"Confusion matrix of {run.name}", _data_uri(run.path / "test" / "confusion.png")
    yield f"Frames of the videos that {run.name} is most wrong about", _data_uri(run.path / "test" / "worst.jpg")


def _data_uri(path: Path) -> str | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(BEGINNINGS[path.suffix]):
        return None
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(data).decode()}"
