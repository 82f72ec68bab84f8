"""Checks a data set: its contents, its problems, and whether its split leaks.

    python -m dataloaders.audit --dataset ucf101
    python -m dataloaders.audit --dataset my/videos --json - | jq .leaks

Nothing is changed. Exit status: 0 no leak, 1 a leak (or no audit was possible: the reason is on stderr), 2 usage.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, positive, run_cli
from common.files import ROOT, write_json
from dataloaders.audit.report import report, to_dict
from dataloaders.audit.run import audit_source
from dataloaders.clips import clip_span
from dataloaders.preprocess.run import make_demo_videos
from dataloaders.sources.find import find_source
from dataloaders.sources.splits import SPLITS


def main(argv: Sequence[str]) -> int:
    import mypath

    args = parse_args(argv)
    source = find_source(args.dataset or mypath.DEFAULT_DATASET, mypath.DATASETS, ROOT, args.frames)
    make_demo_videos(source)
    span = clip_span(args.clip_len, args.frame_stride or 1) if args.clip_len else _span_of(mypath.DEFAULT_MODEL)
    with contextlib.redirect_stdout(sys.stderr):  # notes would spoil the JSON
        audit = audit_source(source, args.split, args.val, span, args.decode, args.workers)

    if args.json != "-":
        print(report(audit, args.all))
    if args.json:
        if args.json == "-":
            print(json.dumps(to_dict(audit), indent=2))
        else:
            write_json(Path(args.json), to_dict(audit))
    return 1 if audit.leaks else 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.audit", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name in mypath.py, a folder of class folders, or a list (.csv, .txt)")
    parser.add_argument("--frames", help="extracted frames (default: as in mypath.py, or FOLDER-frames)")
    parser.add_argument("--split", choices=SPLITS, help="split to check (default: 1, given or random)")
    parser.add_argument(
        "--val", choices=("auto", "none"), default="auto", help="validation split as in train.py (default: auto)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for standard output")
    parser.add_argument("--decode", action="store_true", help="decode every frame, for exact counts; slow")
    parser.add_argument("--clip-len", type=positive, help="frames per clip (default: as in the default model)")
    parser.add_argument(
        "--frame-stride", type=positive, help="step between a clip's frames, with --clip-len (default: 1)"
    )
    parser.add_argument("--all", action="store_true", help="print every class and every finding")
    parser.add_argument("--workers", type=positive, default=None, help="worker processes (default: one per processor)")
    args = parser.parse_args(argv)
    if args.frame_stride and not args.clip_len:
        parser.error("--frame-stride goes with --clip-len; give that, too")
    if args.json and not Path(args.json).parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    return args


def _span_of(model: str) -> int:
    from network import input_spec  # loads torch, which the rest of the audit does without

    return input_spec(model).span


if __name__ == "__main__":
    run_cli(main)
