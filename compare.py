"""Runs side by side: one table, a chart, a page to mail.

    python compare.py                                                     all of run/
    python compare.py run/r3d_18-ucf101-000 run/c3d_bn-ucf101-000         these
    python compare.py --markdown > runs.md
    python compare.py --csv runs.csv --chart runs.png --html runs.html

Runs on different data sets or splits stand in tables of their own. What each column means: docs/evaluation.md
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, run_cli
from common.console import plural
from common.drawing import save_picture
from common.errors import UsageError, UserError
from common.files import ROOT, relative_to_cwd, write_atomically
from engine.comparison.charts import draw_charts
from engine.comparison.groups import Group, group_runs
from engine.comparison.page import write_page
from engine.comparison.run_result import RunResult, one_line, read_run
from engine.comparison.tables import group_lines, group_markdown, runs_csv
from engine.runs.checkpoint import find_checkpoint

WIDTH = 120  # columns of the table where the output is no terminal


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    import mypath  # where run_cli sees what is wrong with it

    runs, left_out = read_runs(find_runs(args.runs, ROOT / mypath.RUNS))
    remarks = [f"Left out: {remark}" for remark in left_out]
    remarks += [one_line(f"{run.name}: {note}") for run in runs for note in run.notes]
    for remark in remarks:
        print(remark, file=sys.stderr)
    if not runs:
        raise UserError("No run is left to compare. Train one: python train.py")
    groups = group_runs(runs)
    print_groups(groups, args.markdown)
    if args.csv:
        save(args.csv, runs_csv(groups))
    if args.chart:
        args.chart.parent.mkdir(parents=True, exist_ok=True)
        save_picture(args.chart, draw_charts(groups))
        say(args.chart)
    if args.html:
        save(args.html, write_page(groups, remarks))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python compare.py", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder or name (default: all of run/)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a line a run, every number in full")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="accuracy against GMACs, and curves, as a .png")
    parser.add_argument("--html", type=Path, metavar="FILE", help="one file with all of it, to mail")
    args = parser.parse_args(argv)
    if args.chart and args.chart.suffix != ".png":
        raise UsageError(f"--chart {args.chart} must end with .png.")
    return args


def find_runs(names: Sequence[str], runs: Path) -> list[Path]:
    """The folders of the named runs, or all there are. Raises UserError for a name that is none."""
    if not names:
        found = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
        if not found:
            raise UserError(f"There are no runs in {relative_to_cwd(runs)} yet. Train one: python train.py")
        return found
    return list(dict.fromkeys(find_run(name, runs) for name in names))


def find_run(name: str, runs: Path) -> Path:
    for folder in (Path(name).expanduser(), runs / name):
        if folder.is_dir():
            return folder.resolve()
    path = find_checkpoint(name, runs)
    if path.name != "best.pth":
        raise UserError(f"{relative_to_cwd(path)} is a file. Runs are compared by their best.pth; name a run's folder.")
    return path.resolve().parent


def read_runs(folders: Sequence[Path]) -> tuple[list[RunResult], list[str]]:
    """-> what can be compared, and for each other folder why it cannot."""
    runs, left_out = [], []
    names = [folder.name for folder in folders]
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else relative_to_cwd(folder)
        try:
            runs.append(read_run(folder, name))
        except (UserError, OSError) as error:
            left_out.append(one_line(f"{name}: {error}"))
    return runs, left_out


def print_groups(groups: Sequence[Group], markdown: bool) -> None:
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    for number, group in enumerate(groups):
        print("\n" * (number > 0) + "\n".join(group_markdown(group) if markdown else group_lines(group, width)))
    if len(groups) > 1 and not markdown:
        print(f"\n{plural(len(groups), 'table')}: numbers of different data sets or splits do not compare.")


def save(path: Path, content: str) -> None:
    """Into a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    say(path)


def say(path: Path) -> None:
    print(f"{relative_to_cwd(path)}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
