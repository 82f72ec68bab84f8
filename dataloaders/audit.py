"""What a data set holds, what is wrong with it, and whether its split leaks.

    python -m dataloaders.audit --dataset ucf101
    python -m dataloaders.audit --dataset my/videos --json - | jq .leaks

Nothing is changed. Exit status: 0 no leak, 1 a leak (or no audit was possible: the reason is on stderr), 2 usage.
"""

import argparse
import contextlib
import glob
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataloaders import manifest
from dataloaders.audit_report import Audit, report, to_dict
from dataloaders.clips import clip_span
from dataloaders.extractor import num_processors
from dataloaders.findings import find_all, same_files, same_frames
from dataloaders.frame_tree import index_frames
from dataloaders.listed import read_video_list, with_groups
from dataloaders.look import Facts, look_at_all
from dataloaders.manifest import VideoRow
from dataloaders.naming import class_names
from dataloaders.preprocess import make_demo_videos
from dataloaders.source import DataSource, find_source, find_videos
from dataloaders.splits import SPLITS, split_videos
from engine.arguments import Parser, positive
from engine.console import count, progress
from engine.errors import ROOT, UserError, run_cli


def main(argv: Sequence[str]) -> int:
    import mypath

    args = parse_args(argv)
    source = find_source(args.dataset or mypath.DEFAULT_DATASET, mypath.DATASETS, ROOT, args.frames)
    make_demo_videos(source)
    span = clip_span(args.clip_len, args.frame_stride or 1) if args.clip_len else _span_of(mypath.DEFAULT_MODEL)
    with contextlib.redirect_stdout(sys.stderr):  # notes on the way, which would spoil the JSON
        audit = audit_source(source, args.split, args.val, span, args.decode, args.workers)

    if args.json != "-":
        print(report(audit, args.all))
    if args.json:
        text = json.dumps(to_dict(audit), indent=1) + "\n"
        if args.json == "-":
            print(text, end="")
        else:
            Path(args.json).write_text(text, encoding="utf-8")
    return 1 if audit.leaks else 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.audit", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name in mypath.py, a folder of class folders, or a list (.csv, .txt)")
    parser.add_argument("--frames", help="where its frames lie (default: as mypath.py says, or FOLDER-frames)")
    parser.add_argument("--split", choices=SPLITS, help="the split to look at (default: 1, given or random)")
    parser.add_argument("--val", choices=("auto", "none"), default="auto", help="as for train.py (default: auto)")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output")
    parser.add_argument("--decode", action="store_true", help="decode every frame: slow, and counts what is there")
    parser.add_argument("--clip-len", type=positive, help="frames of a clip (default: the model's of mypath.py)")
    parser.add_argument("--frame-stride", type=positive, help="their distance, with --clip-len (default: 1)")
    parser.add_argument("--all", action="store_true", help="print every class and every finding")
    parser.add_argument("--workers", type=positive, default=None, help="processes (default: one a processor)")
    args = parser.parse_args(argv)
    if args.frame_stride and not args.clip_len:
        parser.error("--frame-stride says how far apart the frames of --clip-len are; give that, too")
    if args.json and not Path(args.json).parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    return args


def _span_of(model: str) -> int:
    from network import input_spec  # loads torch, which the rest of the audit does without

    return input_spec(model).span


def audit_source(
    source: DataSource,
    split: str | None = None,
    val: str = "auto",
    span: int = 16,
    decode: bool = False,
    workers: int | None = None,
) -> Audit:
    """Looks at every video and judges its split. Where only frames are there, at what the manifest says of them.

    span: frames from a clip's first to its last. Raises UserError where there is no data set, or nothing in it can be
    used; UsageError for a split that it does not have.
    """
    frames = _frames_folder(source)
    if frames is None and source.frames_given:
        raise UserError(f"There are no frames in {source.frames}. Correct --frames, or leave it out.")
    videos_there = _videos_there(source)
    rows = {row.video: row for row in _read_rows(frames, videos_there)} if frames else {}
    if videos_there or not rows:
        videos = find_videos(source, empty_too=True)
        paths = {video.video: source.videos / video.video for video in videos}
        looks = look_at_all(list(paths.values()), decode, workers or num_processors())
        looks = progress(looks, len(paths), "Looking", "videos")
        facts = dict(zip(paths, looks, strict=True))
        if not decode:
            facts = {name: _with_row(fact, rows.get(name)) for name, fact in facts.items()}
        duplicates = same_files(paths)
    else:
        if decode:
            raise UserError(f"--decode decodes videos, and there are none in {source.videos}. Leave it out.")
        videos = with_groups(source, rows.values())
        facts = {video.video: _facts_of(video) for video in videos}
        equal = same_frames(frames, manifest.usable(rows.values()))
        known = [[name for name in names if name in facts] for names in equal]  # a list may leave some out
        duplicates = [names for names in known if len(names) > 1]

    usable = [video for video in videos if not facts[video.video].unreadable]
    if not usable:
        first = videos[0].video
        raise UserError(
            f"None of the {count(len(videos), 'file')} of '{source.name}' can be used (first: {first}: "
            f"{facts[first].unreadable})."
        )
    divided = split_videos(source, usable, split, val)
    findings = find_all(source, videos, facts, divided, duplicates, span)
    classes = class_names(source, {video.label for video in videos})
    return Audit(source, videos, facts, divided, classes, span, findings)


def _videos_there(source: DataSource) -> bool:
    if source.list is None:
        return source.videos.is_dir()
    if not source.list.is_file():
        return False
    return any((source.videos / video.video).is_file() for video in read_video_list(source).videos)


def _frames_folder(source: DataSource) -> Path | None:
    """Frames of any size serve: the first folder that has some."""
    beside = (
        sorted(source.frames.parent.glob(f"{glob.escape(source.frames.name)}-*")) if not source.frames_given else []
    )
    return next((folder for folder in [source.frames, *beside] if folder.is_dir() and any(folder.iterdir())), None)


def _read_rows(frames: Path, videos_there: bool) -> list[VideoRow]:
    """Where the videos are there, frames without a manifest, or with a damaged one, have nothing to add."""
    try:
        if (frames / manifest.NAME).is_file():
            return manifest.read_manifest(frames)
    except manifest.DamagedManifest as error:
        if not videos_there:
            raise
        print(f"Note: {error}")
    return [] if videos_there or (frames / manifest.PARTIAL_NAME).exists() else index_frames(frames)


def _with_row(fact: Facts, row: VideoRow | None) -> Facts:
    """A look, with what preprocessing has decoded of the same file."""
    if row is None or row.source_bytes != fact.num_bytes or not row.quality:
        return fact
    if row.status == "refused":
        return Facts(fact.num_bytes, row.reason)
    if fact.unreadable or row.every != 1 or row.resampled:  # these frames do not count the video's
        return fact
    return replace(fact, num_frames=row.num_frames, counted="manifest")


def _facts_of(row: VideoRow) -> Facts:
    if row.status == "refused":
        return Facts(row.source_bytes, row.reason)
    size = (row.source_width, row.source_height) if row.quality else (row.width, row.height)
    return Facts(row.source_bytes, "", row.num_frames * row.every, "manifest", 0, row.fps, *size)


if __name__ == "__main__":
    run_cli(main)
