"""Runs side by side as one .html file: table, charts, confusion, hard videos. It asks for nothing from outside."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path
from string import Template

from common.console import plural
from engine.comparison.charts import HEIGHT, WIDTH, cost_chart, curve_chart
from engine.comparison.groups import Group
from engine.comparison.marks import SERIES, to_svg
from engine.comparison.run_result import RunResult
from engine.comparison.tables import COLUMNS, LEFT

HERE = Path(__file__).resolve().parent
TITLE = "Runs side by side"
KINDS = {".png": "image/png", ".jpg": "image/jpeg"}
BEGINNINGS = {".png": b"\x89PNG\r\n", ".jpg": b"\xff\xd8"}


def write_page(groups: Sequence[Group], remarks: Sequence[str]) -> str:
    """The whole file. remarks: what else a reader has to know, such as which runs are left out."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    number = sum(len(group.runs) for group in groups)
    made = f"{plural(number, 'run')}, {date.today().isoformat()}"
    if len(groups) > 1:
        made += f". {plural(len(groups), 'table')}: numbers of different data sets or splits do not compare"
    body = [_section(group) for group in groups]
    if remarks:
        body.append("<h2>Remarks</h2>" + "".join(f"<p>{escape(remark)}</p>" for remark in remarks))
    page = Template((HERE / "page.html").read_text(encoding="utf-8"))
    # the browser runs this one script and no other, whatever the names of runs and classes contain
    return page.substitute(
        title=TITLE, made=escape(made), body="\n".join(body), script=script, script_hash=f"sha256-{digest}"
    )


def _section(group: Group) -> str:
    parts = [f"<h2>{escape(group.title)}</h2>"]
    if group.tested_on():
        parts.append(f'<p class="quiet">{escape(group.tested_on())}</p>')
    parts.append(_table(group))
    parts += [f'<p class="bad">{escape(remark)}</p>' for remark in group.about()]
    charts = (
        to_svg(cost_chart(group), WIDTH, HEIGHT, f"{group.title}: accuracy against GMACs a clip"),
        to_svg(curve_chart(group), WIDTH, HEIGHT, f"{group.title}: validation accuracy after each epoch"),
    )
    parts.append(f'<div class="charts">{charts[0]}{charts[1]}</div>')
    parts.append('<p class="quiet">The numbers are those of the table; a line through a dot is its 95 % interval.</p>')
    parts += [_differences(group), _hard_videos(group)]
    details = [_pictures(run, first=number == 0) for number, run in enumerate(group.runs)]
    if any(details):
        parts += ["<h3>What each run confuses, and its surest mistakes</h3>", *details]
    return "\n".join(part for part in parts if part)


def _table(group: Group) -> str:
    head = "".join(
        f'<th scope="col"{_align(column.title)}><button type="button">{escape(column.title)}</button></th>'
        for column in COLUMNS
    )
    rows = []
    for number, run in enumerate(group.runs):
        dot = f'<span class="dot" style="background: var(--s{number % len(SERIES)})"></span>{number + 1} '
        cells = []
        for place, column in enumerate(COLUMNS):
            value = column.value(run)
            value = "" if value is None else escape(str(value))
            tag = "th" if place == 0 else "td"
            scope = ' scope="row"' if place == 0 else ""
            text = (dot if place == 0 else "") + escape(column.text(run))
            cells.append(f'<{tag}{scope}{_align(column.title)} data-value="{value}">{text}</{tag}>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _wide(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>", f"Runs, {group.title}")


def _align(title: str) -> str:
    return "" if title in LEFT else ' class="number"'


def _wide(content: str, name: str) -> str:
    """On a phone it is scrolled, with the keyboard too."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'


def _differences(group: Group) -> str:
    """How far the others are from the first, on the same videos."""
    found = group.differences()
    if not found:
        return ""
    rows = []
    for run, change, interval in found:
        bounds = "{:+.1f} to {:+.1f}".format(*interval) if interval else "nothing varies"
        sure = "yes" if interval and (interval[0] > 0 or interval[1] < 0) else "no"
        cells = "".join(f'<td class="number">{text}</td>' for text in (f"{change:+.2f}", bounds, sure))
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{cells}</tr>')
    titles = ("difference", "95 % interval", "beyond chance?")
    head = '<th scope="col">run</th>' + "".join(f'<th scope="col" class="number">{title}</th>' for title in titles)
    first = escape(group.on_same_videos()[0].name)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<h3>Test top-1 against {first}, on the same videos</h3>" + _wide(table, f"Differences, {group.title}")


def _hard_videos(group: Group) -> str:
    """Which videos most runs get wrong, and what each run takes them for."""
    missed = group.hard_videos()
    if not missed:
        return ""
    names = list(missed[0][2])
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("video", "class", "runs wrong", *names))
    rows = []
    for video, wrong, answers in missed:
        cells = [f"<td>{wrong} of {len(names)}</td>"]
        for name in names:
            style = "" if answers[name] == video.label else ' class="bad"'
            cells.append(f"<td{style}>{escape(answers[name])}</td>")
        rows.append(
            f'<tr><th scope="row">{escape(video.video)}</th><td>{escape(video.label)}</td>{"".join(cells)}</tr>'
        )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return "<h3>Videos that most runs get wrong</h3>" + _wide(table, f"Hard videos, {group.title}")


def _pictures(run: RunResult, first: bool) -> str:
    """The confusion matrix and the sheet of mistakes that evaluate.py drew; the first run's are open."""
    if run.test is None:
        return ""
    pictures = {
        f"Confusion matrix of {run.name}": run.path / "test" / "confusion.png",
        f"Frames of the videos that {run.name} is most wrong about": run.path / "test" / "worst.jpg",
    }
    parts = []
    for what, path in pictures.items():
        data = _data_uri(path)
        name = escape(what)
        picture = f'<img src="{data}" alt="{name}">' if data else ""
        parts.append(_wide(picture, what) if data else f'<p class="bad">{name}: not there, or damaged</p>')
    return f"<details{' open' if first else ''}><summary>{escape(run.name)}</summary>{''.join(parts)}</details>"


def _data_uri(path: Path) -> str | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(BEGINNINGS[path.suffix]):
        return None
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(data).decode()}"
