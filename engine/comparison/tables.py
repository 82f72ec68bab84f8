"""Runs as a table: on the terminal, in Markdown, in a .csv file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.files import csv_text
from engine.comparison.groups import Group
from engine.comparison.run_result import RunResult


@dataclass(frozen=True)
class Column:
    """text: the cell as it is read, "" where the run does not say.   value: what it sorts by, None where unknown."""

    title: str
    text: Callable[[RunResult], str]
    value: Callable[[RunResult], float | str | None]


def _number(form: str, value: Callable[[RunResult], float | None]) -> tuple[Callable, Callable]:
    return lambda run: "" if value(run) is None else form.format(value(run)), value


def _epochs(run: RunResult) -> str:
    if run.epochs is None:
        return ""
    return f"{run.epochs}" if run.planned in (None, run.epochs) else f"{run.epochs}/{run.planned}"


def _millions(run: RunResult) -> str:
    return f"{run.parameters / 1e6:.{2 if run.parameters < 1e7 else 1}f} M"


def _test(run: RunResult) -> str:
    if run.test is None:
        return ""
    interval = " ({:.1f}-{:.1f})".format(*run.test.interval) if run.test.interval else ""
    return f"{run.test.top1:.2f}{' leak!' if run.test.leak else interval}"


COLUMNS = (
    Column("run", lambda run: run.name, lambda run: run.name),
    Column("model", lambda run: run.model, lambda run: run.model),
    Column("pretraining", lambda run: run.pretraining or "", lambda run: run.pretraining),
    Column("params", lambda run: "" if run.parameters is None else _millions(run), lambda run: run.parameters),
    Column("GMACs", *_number("{:.2f}", lambda run: run.gmacs)),
    Column("epochs", _epochs, lambda run: run.epochs),
    Column("best val", *_number("{:.2f}", lambda run: run.best_val)),
    Column("test top-1 (95 %)", _test, lambda run: run.test and run.test.top1),
    Column("clips/s", *_number("{:.1f}", lambda run: run.clips_per_second)),
    Column("GB", *_number("{:.1f}", lambda run: run.memory_gb)),
    Column("hours", *_number("{:.2f}", lambda run: run.hours)),
    Column("differs in", lambda run: run.differs, lambda run: run.differs or None),
)
LEFT = ("run", "model", "pretraining", "differs in")  # columns of names, which stand left
GAP = "  "


def group_lines(group: Group, width: int) -> list[str]:
    """Title, table and remarks. A table that is wider than the terminal goes on below, with the runs' names again."""
    heading = ", ".join(part for part in (group.title, group.tested_on()) if part)
    first, *rest = COLUMNS
    parts = [[first]]
    for column in rest:
        if len(parts[-1]) > 1 and max(map(len, table_lines(group.runs, [*parts[-1], column]))) > width:
            parts.append([first])
        parts[-1].append(column)
    tables = [table_lines(group.runs, columns) for columns in parts]
    return [heading, *(line for table in tables for line in ("", *table)), *group.about()]


def table_lines(runs: Sequence[RunResult], columns: Sequence[Column]) -> list[str]:
    rows = [[column.title for column in columns], *([column.text(run) for column in columns] for run in runs)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, columns, strict=True)
        padded = [cell.ljust(width) if column.title in LEFT else cell.rjust(width) for cell, width, column in cells]
        lines.append(GAP.join(padded).rstrip())
    return lines


def group_markdown(group: Group) -> list[str]:
    """A heading, a table, and remarks below it."""
    heading = ", ".join(part for part in (f"**{_escaped(group.title)}**", group.tested_on()) if part)
    lines = [heading, "", _row([column.title for column in COLUMNS])]
    lines.append(_row(["---" if column.title in LEFT else "---:" for column in COLUMNS]))
    lines += [_row([_escaped(column.text(run)) for column in COLUMNS]) for run in group.runs]
    return [*lines, "", *(f"{_escaped(remark)}  " for remark in group.about())]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    for letter in "\\|<>*_`[]":
        text = text.replace(letter, f"\\{letter}")
    return text


def runs_csv(groups: Sequence[Group]) -> str:
    """One line per run, all groups in one file: data set and split are columns here. Unknown values are empty."""
    header = (
        "dataset", "split", "run", "model", "pretraining", "parameters", "gmacs", "epochs", "planned_epochs",
        "best_val_top1", "test_top1", "test_low", "test_high", "test_videos", "protocol", "leak", "clips_per_second",
        "gpu_memory_gb", "hours", "device", "differs_in",
    )  # fmt: skip
    rows = []
    for group in groups:
        for run in group.runs:
            test = run.test
            low, high = test.interval if test and test.interval else (None, None)
            tested = (test.top1, low, high, test.num_videos, test.protocol, test.leak) if test else (None,) * 6
            rows.append(
                [
                    group.dataset, group.split, run.name, run.model, run.pretraining, run.parameters, run.gmacs,
                    run.epochs, run.planned, run.best_val, *tested, run.clips_per_second, run.memory_gb, run.hours,
                    run.device, run.differs,
                ]
            )  # fmt: skip
    return csv_text([header, *rows])
