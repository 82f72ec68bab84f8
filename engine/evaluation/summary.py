"""Printed summaries: one evaluation in a few lines, and the mean over several splits."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from common.console import plural, table_line
from common.files import printable, relative_to_cwd
from engine.evaluation.bootstrap import mean_and_deviation
from engine.evaluation.confusion import Confused
from engine.evaluation.published import METRICS, Published, beside, published
from engine.evaluation.report import Analysis, EvaluationRecord


def comparable(record: EvaluationRecord) -> list[Published]:
    """Published results of the same measurement; none for a result that is no test result."""
    if not record.is_test_result:
        return []
    return published(record.official, record.split, record.model, record.pretraining)


def print_record(path: Path, record: EvaluationRecord) -> None:
    """Prints the main numbers of an evaluation."""
    views = f"every window, {record.windows} frames apart," if record.windows else ""
    views = views or plural(record.num_clips, "clip")
    print(
        f"{relative_to_cwd(path)} ({record.model}) on {record.place}: {plural(record.num_videos, 'video')}, "
        f"{views} x {plural(record.crops, 'crop')}"
    )
    if record.leak:
        print(f"  NOT A TEST RESULT: {record.leak}")
    interval, mark = record.interval, "   (leak)" if record.leak else ""
    recordings = plural(interval["num_groups"], "recording")
    lines = METRICS | {"top5": f"video top-{min(5, record.num_classes)}", "mean_class": "mean class accuracy"}
    for key, name in lines.items():
        bounds = interval[key] and "   95 % interval {:.1f} to {:.1f}".format(*interval[key])
        note = f" over {recordings}" if bounds and key == "top1" else ""
        if note and not 5 <= record.top1 <= 95:
            note += f", too narrow so near {'100' if record.top1 > 95 else '0'} %"
        print(f"  {name:20} {getattr(record, key):6.2f}{mark}{bounds or ''}{note}")
    if not interval["top1"]:
        alike = (
            "all recordings have the same accuracy" if interval["num_groups"] > 1 else "the videos are of one recording"
        )
        print(f"  no interval for top-1: {alike}")
    if record.confused:
        print("  most often confused: " + "; ".join(str(Confused(**pair)) for pair in record.confused[:3]))
    if record.temporal:
        print(f"  video top-1 by order of the frames (chance: {100 / record.num_classes:.2f})")
        for order, top1 in record.temporal.items():
            print(f"    {order:10} {top1:6.2f}")
    for row in comparable(record):
        print(f"  {beside(row, asdict(record))}")


def print_classes(analysis: Analysis, lines: int, per_class: Path) -> None:
    """Prints a table of the classes, the worst first, in at most so many lines; the file has them all."""
    rows = [row for row in analysis.by_class_table() if row.videos]
    rows.sort(key=lambda row: (row.top1, -row.videos, row.name))
    shown = rows if len(rows) <= lines else rows[: lines - 1]
    table = [("class", "videos", "top-1", "most often taken for")]
    for row in shown:
        taken = f"{printable(row.taken_for)} ({row.times})" if row.taken_for else ""
        table.append((printable(row.name), f"{row.videos}", f"{row.top1:.1f}", taken))
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for cells in table:
        print(f"  {table_line(cells, widths[:-1])}")
    if len(shown) < len(rows):
        print(f"  ... and {plural(len(rows) - len(shown), 'class')} more: {relative_to_cwd(per_class)}")


def print_splits(records: list[EvaluationRecord]) -> None:
    """Mean and standard deviation over runs of one model on several splits of one data set, as papers print them."""
    alike = defaultdict(list)
    for record in records:
        alike[tuple(getattr(record, key) for key in ("model", "dataset", "part", "pretraining"))].append(record)
    for (model, dataset, part, pretraining), runs in alike.items():
        splits = sorted(record.split for record in runs)
        if len(set(splits)) < max(len(splits), 2):
            continue
        print(f"{model} on {dataset}, splits {', '.join(splits)}, {part}: mean and standard deviation")
        leaks = [record.split for record in runs if record.leak]
        if leaks:
            print(f"  NOT A TEST RESULT: split {', '.join(leaks)} leaks")
        means = {}
        for key, name in (METRICS | {"mean_class": "mean class accuracy"}).items():
            means[key], deviation = mean_and_deviation([getattr(record, key) for record in runs])
            each = ", ".join(f"{getattr(record, key):.2f}" for record in runs)
            print(f"  {name:20} {means[key]:6.2f} \N{PLUS-MINUS SIGN} {deviation:.2f}   ({each})")
        if (
            splits == ["1", "2", "3"]
            and len({record.official for record in runs}) == 1
            and all(run.is_test_result for run in runs)
        ):
            for row in published(runs[0].official, "mean", model, pretraining):
                print(f"  {beside(row, means)}")
