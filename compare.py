"""Compares runs in a table, a chart and an HTML page.

    python compare.py                                                     all runs
    python compare.py run/r3d_18-ucf101-000 run/c3d_bn-ucf101-000         two runs
    python compare.py --markdown > runs.md
    python compare.py --csv runs.csv --chart runs.png --html runs.html
    python compare.py --gate NEW OLD                                      exit status 1 if NEW is worse

Runs on different data sets or splits get separate tables. The columns are described in docs/evaluation.md
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import Parser, not_negative, run_cli
from common.console import plural
from common.errors import UsageError, UserError
from common.files import ROOT, relative_to_cwd, write_atomically

if TYPE_CHECKING:
    from engine.comparison.groups import Group

WIDTH = 120  # columns of the table where the output is no terminal


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import mypath
    from engine.comparison.find_runs import find_runs, read_runs
    from engine.comparison.groups import group_runs
    from engine.comparison.tables import runs_csv
    from engine.comparison.test_result import one_line

    folder = args.runs or ROOT / mypath.RUNS
    if args.gate:
        return gate(*args.gate, folder, args.margin)
    runs, left_out = read_runs(find_runs(args.names, folder))
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
        save_chart(args.chart, groups)
    if args.html:
        from engine.comparison.page import write_page

        save(args.html, write_page(groups, remarks))
    return 0


def gate(new: str, old: str, folder: Path, margin: float) -> int:
    """Prints how the new run differs from the old one. Returns 1 where it is worse beyond the margin, else 0; raises
    UsageError (status 2) where they cannot be compared."""
    from engine.comparison.cross_validation import read_entry
    from engine.comparison.find_runs import find_run
    from engine.comparison.gate import judge
    from engine.comparison.test_result import one_line

    try:
        runs = [read_entry(find_run(name, folder), name) for name in (new, old)]
    except (UserError, OSError) as error:
        raise UsageError(one_line(str(error))) from error
    for run in runs:
        for note in run.notes:
            print(one_line(f"{run.name}: {note}"), file=sys.stderr)
    judged = judge(*runs, margin)
    print("\n".join(judged.lines()))
    return int(judged.worse)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python compare.py", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="RUN", help="a run's folder or name (default: all runs)")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the runs (default: as in mypath.py)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers, one line per run")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="draw accuracy against GMACs, and curves (.png, .svg)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write table, charts and pictures as one HTML file")
    parser.add_argument(
        "--gate", nargs=2, metavar=("NEW", "OLD"), help="is NEW worse than OLD? Exit status 1: yes; 2: not comparable"
    )
    parser.add_argument(
        "--margin", type=not_negative, default=0.0, metavar="X", help="points NEW may lose (default: 0)"
    )
    args = parser.parse_args(argv)
    others = [args.names, args.markdown, args.csv, args.chart, args.html]
    if args.gate and any(others):
        raise UsageError(
            "--gate compares two runs on its own: leave out other runs, --markdown, --csv, --chart and --html."
        )
    if args.margin and not args.gate:
        raise UsageError(f"--margin {args.margin:g} is for --gate NEW OLD.")
    if args.chart and args.chart.suffix not in (".png", ".svg"):
        raise UsageError(f"--chart {args.chart} must end with .png or .svg.")
    return args


def print_groups(groups: "Sequence[Group]", markdown: bool) -> None:
    from engine.comparison.tables import group_lines, group_markdown

    width = shutil.get_terminal_size((WIDTH, 0)).columns
    for number, group in enumerate(groups):
        print("\n" * (number > 0) + "\n".join(group_markdown(group) if markdown else group_lines(group, width)))
    if len(groups) > 1 and not markdown:
        print(f"\n{plural(len(groups), 'table')}: results on different data sets or splits are not comparable.")


def save_chart(path: Path, groups: "Sequence[Group]") -> None:
    from common.drawing import encode_picture
    from common.figures import figure_pixels, figure_svg
    from engine.comparison.charts import draw_charts

    figure = draw_charts(groups)
    save(path, figure_svg(figure) if path.suffix == ".svg" else encode_picture(figure_pixels(figure, scale=2), ".png"))


def save(path: Path, content: str | bytes) -> None:
    """Writes a file, with its folder, and prints its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    print(f"{relative_to_cwd(path)}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
