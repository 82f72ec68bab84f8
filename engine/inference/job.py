"""One command of inference.py: outputs that are checked before the work, and an answer for every source."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from common.console import plural, progress
from common.errors import UsageError, UserError
from common.files import check_writable, identity, printable, write_json
from engine.inference.annotate import annotate, show_annotated, write_live
from engine.inference.csv_table import AnswerTable
from engine.inference.prediction import TIMEOUT, report
from engine.inference.read_ahead import read_ahead
from engine.inference.recognizer import Recognizer
from engine.inference.sources import Sources
from engine.inference.video_writer import FORMATS, check_codecs, video_format
from engine.inference.windows import evenly_spaced_clips

NUM_CLIPS = 10  # of a video, as in evaluate.py


def only_classifies(args: argparse.Namespace, sources: Sources) -> bool:
    """Whether one prediction per video is wanted, and nothing over time."""
    return sources.from_folder and not (args.output or args.json or args.show)


def check_options(args: argparse.Namespace, sources: Sources) -> None:
    """Raises UsageError for flags that would do nothing, given these sources and the other flags."""
    if sources.live and (args.csv or args.explain):
        flag = "--csv" if args.csv else "--explain"
        raise UsageError(f"{flag} needs finite videos; {printable(sources.live)} is a camera or a stream.")
    given = next((name for name in ("duration", "timeout", "reconnect") if getattr(args, name)), None)
    if given and not sources.live:
        raise UsageError(f"--{given} is for cameras and streams; files are processed to their end.")
    if args.fps and not any(video.is_dir() for video, _ in sources.videos):
        raise UsageError("--fps is for folders of frames, which do not say their rate; a video says its own.")
    if args.explain and not (args.output or args.show or args.json):
        raise UsageError("--explain needs an output for its heat map: give --output FILE, --json FILE or --show, too.")
    shows_time = sources.live or args.output or args.json or args.show
    if args.smooth and not shows_time:
        raise UsageError("--smooth applies to labels over time: give --output, --json or --show, too.")
    if args.stride and only_classifies(args, sources):
        raise UsageError(
            "--stride applies to windows over time, but a folder is predicted from evenly spaced clips: give "
            "--output, --json or --show, too."
        )


def plan_outputs(args: argparse.Namespace, sources: Sources, checkpoints: Sequence[Path]) -> list[Path | None]:
    """The path of each source's annotated video. Refuses, before any work is done, outputs that cannot be written and
    those that would overwrite an input (checkpoints: the files of --checkpoint). Makes missing folders."""
    check_options(args, sources)
    if args.output and sources.live:
        outputs = [Path(args.output).expanduser()]
        if video_format(outputs[0]) == "gif":
            raise UsageError("--output: a camera or stream is written as .mp4, .mov or .mkv.")
    else:
        outputs = output_paths(sources, args.output) if args.output else [None] * max(len(sources.videos), 1)
    written = [path for path in [*outputs, args.json, args.csv] if path]
    read = [*(video for video, _ in sources.videos), *(Path(name) for name in (args.weights, args.labels) if name)]
    read += checkpoints

    identities = {identity(path) for path in read} - {None}
    for path in written:
        if identity(path) in identities:
            raise UsageError(f"{printable(path)} is also an input and would be overwritten. Choose another name.")
    if len({path.absolute() for path in written}) < len(written):
        raise UsageError(f"--output, --json and --csv need different names; {printable(written[-1])} is given twice.")
    if args.output:
        check_codecs()
    for path in written:
        check_writable(path)
    return outputs


def output_paths(sources: Sources, output: str) -> list[Path]:
    """--output as one path a source. A folder gets <stem>.mp4 of each, and <stem>-2.mp4 where two share a stem; the
    videos of a folder keep their places below it.

    With one source a name is a file, unless there is a folder of that name or it ends in /; with several, a folder.
    """
    path = Path(output).expanduser()
    one = len(sources.videos) == 1 and not sources.from_folder
    if not path.is_dir() and not output.endswith(("/", os.sep)) and (one or path.suffix in FORMATS):
        video_format(path)
        if not one:
            raise UsageError(
                f"--output {output} is one file, and there are {len(sources.videos)} sources. Name a folder."
            )
        return [path]

    taken: set[str] = set()
    names = []
    for _, relative in sources.videos:
        name, number = relative.with_suffix(".mp4"), 1
        while str(name).lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = relative.with_name(f"{relative.stem}-{number}.mp4")
        taken.add(str(name).lower())
        names.append(path / name)
    return names


def recognize_each(
    args: argparse.Namespace, recognizer: Recognizer, sources: Sources, outputs: list[Path | None]
) -> int:
    """Windows over every video; a report for each, and its annotated video. The rest goes on where one is unusable."""
    answers, refused, cut = [], [], 0
    table = AnswerTable(args.csv, args.top, args.threshold) if args.csv else None
    for (video, _), output in zip(sources.videos, outputs, strict=True):
        try:
            answers.append(recognize(args, recognizer, video, output))
            cut += say_lost(answers[-1]["video"], answers[-1]["lost"])
            if table:
                table.add(recognizer.classify(video, NUM_CLIPS, args.fps))
        except UserError as error:  # the other sources still get their answer
            refused.append(error)
            print(error, file=sys.stderr, flush=True)
            if table:
                table.refuse(video, error)

    if table:
        table.close()
    if args.json and answers:
        write_json(args.json, answers[0] if len(sources.videos) == 1 else answers)
    if len(sources.videos) > 1:
        print(summary(len(sources.videos), refused, cut))
    return 1 if refused or cut else 0


def say_lost(video: str, lost: str | None) -> bool:
    """Says that an answer is of a part of the video."""
    if lost:
        print(f"{video}: {lost}. The answer is from the frames before.", file=sys.stderr, flush=True)
    return bool(lost)


def recognize(args: argparse.Namespace, recognizer: Recognizer, video: Path, output: Path | None) -> dict:
    """One video as the command line asks for it -> what --json holds of it."""
    prediction = recognizer.predict(video, show_progress=True, fps=args.fps)
    print(report(prediction, args.top, args.threshold), flush=True)
    explanation, whole = None, prediction.label() if args.explain_whole else args.explain_class
    prediction = prediction.smoothed(args.smooth or 1)
    if args.explain:
        explanation = recognizer.explain(video, prediction, whole, show_progress=True)
    options = (args.top, True, args.threshold, explanation, recognizer.input_spec)
    if output:
        annotate(video, prediction, output, *options)
        print(f"  -> {printable(output)}", flush=True)
    if args.show:
        show_annotated(video, prediction, *options)
    explained = {"explained": explanation.to_dict()} if explanation else {}
    return prediction.to_dict(args.top, args.threshold) | explained


def classify_all(args: argparse.Namespace, recognizer: Recognizer, sources: Sources) -> int:
    """One prediction per video, as evaluate.py gives it; a line for each on the terminal, a row in the table."""
    refused, cut = [], []
    table = AnswerTable(args.csv, args.top, args.threshold) if args.csv else None
    videos = [video for video, _ in sources.videos]

    def read(video: Path) -> Iterator[tuple]:
        yield evenly_spaced_clips(video, recognizer.input_spec, NUM_CLIPS, args.fps)

    with read_ahead(videos, read, threads=2, waiting=1) as reading:
        for video, found in progress(reading, len(videos), "Recognising", "videos"):
            try:
                [clips] = found
                prediction = recognizer.classify_clips(video, *clips)
            except UserError as error:
                refused.append(error)
                if table:
                    table.refuse(video, error)
                continue
            if prediction.lost:
                cut.append(prediction)
            if table:
                table.add(prediction)
            else:
                label, (_, probability) = prediction.label(args.threshold), prediction.top(1)[0]
                print(f"{printable(video)}: {printable(label)} {100 * probability:.1f} %", flush=True)
    if table:
        table.close()
        print(f"-> {printable(args.csv)}")
    for error in refused:
        print(error, file=sys.stderr)
    for prediction in cut:
        say_lost(printable(prediction.video), prediction.lost)
    print(summary(len(videos), refused, len(cut)))
    return 1 if refused or cut else 0


def summary(num_videos: int, refused: Sequence[UserError], num_cut: int) -> str:
    problems = f", {num_cut} of a video that breaks off" if num_cut else ""
    problems += f", {len(refused)} could not be used" if refused else ""
    return f"{plural(num_videos - len(refused), 'answer')}{problems}"


def watch_live(
    args: argparse.Namespace, recognizer: Recognizer, name: str, output: Path | None, stop: AbstractContextManager
) -> int:
    """A camera or stream, until it ends, --duration is over, or Ctrl-C; what was seen is written in any case."""
    with stop:
        live = recognizer.watch(
            name, args.smooth or 1, args.timeout or TIMEOUT, args.duration, stop, args.reconnect or 0
        )
        print(f"Watching {printable(name)}, {live.describe()}; Ctrl-C ends.", flush=True)
        write_live(live, output, args.top, args.threshold, args.show)
    prediction = live.prediction().smoothed(args.smooth or 1)
    print(report(prediction, args.top, args.threshold))
    print(f"  {plural(live.num_dropped, 'picture')} and {plural(live.num_skipped, 'window')} dropped to keep up")
    if output:
        print(f"  -> {printable(output)}")
    if live.closed:
        print("  the source ended by itself")
    if args.json:
        write_json(args.json, prediction.to_dict(args.top, args.threshold))
    if live.lost:
        raise UserError(f"{printable(name)} was lost: {live.lost}. The prediction above is from the frames before.")
    return 0
