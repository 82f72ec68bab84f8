"""Cross-validation: each video's answer by the run that left its recording out, pooled into one result."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.console import plural
from common.errors import UserError
from common.files import atomic_write, relative_to_cwd
from dataloaders import open_dataset
from dataloaders.frame_set import FrameSet
from dataloaders.sources.data_source import check_classes
from engine.evaluation.bootstrap import mean_and_deviation
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.report import Analysis, EvaluationRecord, provenance, write_report
from engine.evaluation.summary import print_record
from engine.runs.checkpoint import drawing_of, load_checkpoint, spec_of

ANSWERS = "answers.npz"  # in a fold's folder; written last, so that a fold with answers is done


def save_answers(run_dir: Path, frame_set: FrameSet, evaluation: Evaluation) -> None:
    """Keeps what pooling needs of a fold: probs (V, K), labels, clips_right and num_clips (V,), and the videos."""
    videos = np.array([row.video.encode("utf-8", "surrogateescape") for row in frame_set.part("test")])
    values = {name: getattr(evaluation, name) for name in ("probs", "labels", "clips_right", "num_clips")}
    with atomic_write(run_dir / ANSWERS) as temporary, temporary.open("wb") as file:
        np.savez(file, videos=videos, **values)


def pool_folds(folder: Path, num_folds: int, datasets: dict[str, dict]) -> EvaluationRecord:
    """Writes the pooled result into the folder of a cross-validation, as an evaluation does, and prints it."""
    run_dirs = [folder / f"fold-{number}" for number in range(1, num_folds + 1)]
    records = [_read_record(run_dir) for run_dir in run_dirs]
    frame_set = _open_data(run_dirs[0] / "best.pth", datasets)
    analysis = Analysis(frame_set, "all", **_read_answers(run_dirs, [row.video for row in frame_set.part("all")]))
    first, clips = records[0], [record.num_clips_total for record in records]
    seconds = sum(record.seconds for record in records)
    record = replace(
        first,
        checkpoint=f"{num_folds} folds",
        weights_hash=_hash("".join(record.weights_hash for record in records)),
        epoch=max(record.epoch for record in records),
        step=max(record.step for record in records),
        official=None,
        split=f"{num_folds}-fold",
        split_hash=_hash("".join(record.split_hash for record in records)),
        leak=next((record.leak for record in records if record.leak), None),
        training_known=all(record.training_known for record in records),
        top1=100 * float((analysis.ranks == 1).mean()),
        top5=100 * float((analysis.ranks <= 5).mean()),
        clip_top1=100 * float(analysis.clips_right.sum() / analysis.num_clips.sum()),
        loss=float(np.average([record.loss for record in records], weights=clips)),
        **analysis.numbers(),
        seconds=seconds,
        clips_per_second=sum(clips) / seconds,
        published=[],
        folds=[
            {"top1": record.top1, "num_videos": record.num_videos, "num_groups": record.interval["num_groups"]}
            for record in records
        ],
        **provenance(),
    )
    title = f"{record.model} on {record.dataset}, {num_folds} folds: video top-1 {record.top1:.1f} %"
    write_report(folder, "test", record, analysis, title)
    print_pooled(folder, record)
    return record


def print_pooled(folder: Path, record: EvaluationRecord) -> None:
    print_record(folder, record)
    for number, fold in enumerate(record.folds, 1):
        tested = f"{plural(fold['num_videos'], 'video')} of {plural(fold['num_groups'], 'recording')}"
        print(f"  {f'fold {number}':20} {fold['top1']:6.2f}   {tested}")
    mean, deviation = mean_and_deviation([fold["top1"] for fold in record.folds])
    print(f"  {'mean over folds':20} {mean:6.2f} \N{PLUS-MINUS SIGN} {deviation:.2f}")
    print(f"  {relative_to_cwd(folder / 'test.json')}; tables and pictures in {relative_to_cwd(folder / 'test')}/")


def _read_record(run_dir: Path) -> EvaluationRecord:
    content = json.loads((run_dir / "test.json").read_text(encoding="utf-8"))
    return EvaluationRecord(**{field.name: content[field.name] for field in fields(EvaluationRecord)})


def _open_data(checkpoint_path: Path, datasets: dict[str, dict]) -> FrameSet:
    checkpoint = load_checkpoint(checkpoint_path)
    config = checkpoint["config"]
    return open_dataset(
        config["dataset"],
        spec_of(checkpoint_path, checkpoint),
        config["split"],
        config["val"],
        datasets=datasets,
        frames=config.get("frames"),
        drawing=drawing_of(checkpoint),
        check=partial(check_classes, checkpoint["classes"], CHANGED),
    )


CHANGED = "The data set has changed since the first fold. Begin a new cross-validation."


def _read_answers(run_dirs: Sequence[Path], videos: Sequence[str]) -> dict[str, np.ndarray]:
    """The answers of all folds in the order of these videos. Raises UserError where they are not of the same ones."""
    parts = []
    for run_dir in run_dirs:
        with np.load(run_dir / ANSWERS) as file:
            parts.append(dict(file))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    names = [name.decode("utf-8", "surrogateescape") for name in whole.pop("videos").tolist()]
    if sorted(names) != sorted(videos):
        raise UserError(f"{relative_to_cwd(run_dirs[0].parent)} has tested {plural(len(names), 'video')}. {CHANGED}")
    place = {name: number for number, name in enumerate(names)}
    order = [place[name] for name in videos]
    return {name: values[order] for name, values in whole.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
