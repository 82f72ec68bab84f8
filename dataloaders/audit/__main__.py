"""Checks a data set: its contents, its problems, and whether its split leaks.

    python -m dataloaders.audit --dataset ucf101
    python -m dataloaders.audit --dataset my/videos --json - | jq .leaks
    python -m dataloaders.audit --labels run/r3d_18-videos-5fold-000      videos whose label may be wrong

Nothing of the data is changed. Exit status: 0 no leak, 1 a leak (or no audit was possible: the reason is on stderr),
2 usage.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, positive, run_cli
from common.errors import UsageError, UserError
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
    if args.labels:
        return audit_labels(args.labels, args.dataset)
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


def audit_labels(name: str, dataset: str | None) -> int:
    """Lists the videos whose label may be wrong, by a run's answers to its test videos, or by features of all."""
    import mypath
    from engine.features.mislabelled import doubts_of_features, doubts_of_run, write_doubts
    from engine.features.store import list_features
    from engine.runs.folder import folds_of

    places = (Path(name).expanduser(), ROOT / mypath.RUNS / name)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise UsageError(f"--labels {name}: there is no run and no folder of features of this name.")
    is_run = (folder / "config.json").is_file()
    if is_run and not (folder / "test" / "videos.csv").is_file():
        raise UsageError(f"--labels {name}: this run is not tested yet. Do: python evaluate.py {name}")
    if is_run:
        dataset = dataset or json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dataset")
        doubts = doubts_of_run(folder)
        if not folds_of(folder):
            print(
                f"Note: of a single run only its {len(doubts)} test videos can be judged, since it has learnt the "
                "others by heart. A run of train.py --folds judges all."
            )
    else:
        dataset = dataset or list_features(folder)[0].get("dataset")
    source = None
    with contextlib.suppress(UserError):  # features name a data set that may not be in mypath.py
        source = find_source(dataset, mypath.DATASETS, ROOT, None) if dataset else None
    write_doubts(folder, doubts if is_run else doubts_of_features(folder, source), source)
    return 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.audit", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name in mypath.py, a folder of class folders, or a list (.csv, .txt)")
    parser.add_argument("--frames", help="extracted frames (default: as in mypath.py, or FOLDER-frames)")
    parser.add_argument("--split", choices=SPLITS, help="split to check (default: 1, given or random)")
    parser.add_argument(
        "--val", choices=("auto", "none"), default="auto", help="validation split as in train.py (default: auto)"
    )
    parser.add_argument(
        "--labels",
        metavar="RUN|FEATURES",
        help="instead: videos whose label may be wrong, by a tested run (best: of train.py --folds) or by features",
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
