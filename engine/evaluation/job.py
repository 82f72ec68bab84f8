"""One evaluation from checkpoint to files."""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.console import plural
from common.errors import UsageError, UserError
from common.files import check_writable, relative_to_cwd
from common.torchrun import is_rank_zero, rank, world_size
from dataloaders import open_dataset
from dataloaders.batch_sampler import EvalBatchSampler
from dataloaders.dataset import FRAME_ORDERS, EvalDataset, WindowDataset
from dataloaders.frame_set import FrameSet
from dataloaders.loader import ClipLoader
from dataloaders.sources.data_source import check_classes
from engine.evaluation.evaluate import Evaluation, evaluate_answers
from engine.evaluation.leaks import changed_training, copies_of_training, find_leak, knows_its_training, what_is_unknown
from engine.evaluation.published import official_name, pretraining_of
from engine.evaluation.report import Analysis, EvaluationRecord, is_logged, log_report, provenance, write_report
from engine.evaluation.summary import comparable, print_classes, print_record
from engine.export.runtimes import is_exported
from engine.hardware.device import device_name
from engine.hardware.distributed import broadcast, rank_zero_first
from engine.predictor import Predictor, open_predictor
from engine.runs.checkpoint import drawing_of
from network import InputSpec

CLASS_LINES, OTHER_LINES = 20, 16  # of the table of classes, where the output is no terminal; of all else on a screen


@dataclass(frozen=True)
class EvaluationOptions:
    """The flags of evaluate.py; see there for their meaning. None: the checkpoint's own."""

    dataset: str | None = None
    frames: str | None = None
    split: str | None = None
    on: str = "test"
    num_clips: int = 10
    windows: int | None = None
    crops: int = 1
    temporal: bool = False
    allow_leak: bool = False
    output: Path | None = None
    batch_size: int = 32
    workers: int = 2
    device: str = "auto"


@dataclass(frozen=True)
class EvaluationJob:
    """A checkpoint and the videos to evaluate it on.

    own   the videos are those that its run left for testing (or, with --on val, for validation)
    leak  the reason why the result will be no test result, where --allow-leak asks for it all the same
    """

    path: Path
    frame_set: FrameSet
    own: bool
    leak: str | None

    def folder(self, output: Path | None, several: bool) -> Path:
        if output is None:
            return self.path.parent
        return output / self.path.parent.name if several else output

    def stem(self, part: str) -> str:
        """Name of the result: test or val for a run's best.pth on its own split, and longer names for everything else,
        so that nothing is overwritten: last-test, model-onnx-test, test-ucf101-split2 on another split or data set."""
        of_run = self.path.name == "best.pth" and (self.path.parent / "config.json").is_file()
        name = self.path.name.replace(".", "-") if is_exported(self.path) else self.path.stem
        other = f"-{self.frame_set.source.name}-split{self.frame_set.split.name}"
        return ("" if of_run else f"{name}-") + part + ("" if self.own else other)


def prepare(path: Path, options: EvaluationOptions, datasets: dict[str, dict], several: bool = False) -> EvaluationJob:
    """Raises UserError where the classes differ, where there is nothing to test on, and, without --allow-leak, where
    the checkpoint has seen the recordings that it is to be tested on, or where the results cannot be written."""
    if is_exported(path) and options.crops != 1:
        raise UsageError(f"--crops {options.crops}: {path.name} contains the centre crop. Give the run instead.")
    trained = open_predictor(path, options.device)
    checkpoint = trained.checkpoint
    frame_set = open_test_frames(trained, options, datasets)
    if not frame_set.part(options.on):
        raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no {options.on} videos.")
    if options.dataset and options.on == "test" and frame_set.split.name == "random":
        videos, tested = len(frame_set.part("all")), len(frame_set.part("test"))
        print(
            f"Note: {frame_set.source.name} has no split of its own: {tested} of its {plural(videos, 'video')} are "
            "drawn for testing. --on all evaluates all."
        )
    if note := what_is_unknown(checkpoint):
        print(note)
    same_data = options.dataset in (None, checkpoint["config"].get("dataset"))
    learnt = options.on == "train"  # by heart, at worst: how much it is, is what one asks
    leak = None if learnt else find_leak(checkpoint, frame_set, options.on, same_data)
    if leak and not options.allow_leak:
        raise UserError(
            f"{leak[0].upper()}{leak[1:]}, so its accuracy there would be meaningless. Evaluate it on its own split, "
            f"{checkpoint['split'].get('name')}, with the same videos; --allow-leak evaluates nevertheless, and "
            "marks the result."
        )
    own = same_data and frame_set.split.hash == (checkpoint.get("split") or {}).get("hash")
    if own and (changed := changed_training(checkpoint, frame_set)):
        own = False
        print(
            f"Note: {frame_set.frames} has other frames of {plural(len(changed), 'training video')} than those that "
            f"this run was trained on (first: {changed[0].video}): another rate or quality, or other videos. The "
            "result is written beside the run's own."
        )
    if own and not learnt and is_rank_zero() and (copies := copies_of_training(checkpoint, frame_set, options.on)):
        print(
            f"Note: {len(copies)} of these {plural(len(frame_set.part(options.on)), 'video')} have the content of a "
            f"training video (first: {copies[0]}), so the accuracy is too high. python -m dataloaders.audit lists them."
        )
    job = EvaluationJob(path, frame_set, own, leak)
    if is_rank_zero():
        check_writable(job.folder(options.output, several) / f"{job.stem(options.on)}.json")
    return job


def open_test_frames(trained: Predictor, options: EvaluationOptions, datasets: dict[str, dict]) -> FrameSet:
    """The frames to evaluate on: the checkpoint's own data set and split unless the options name others. Raises
    UserError where classes differ."""
    config = trained.checkpoint["config"]
    name = options.dataset or config.get("dataset")
    if not name:
        raise UserError("This checkpoint does not name its data set. Give one: --dataset")
    frames = options.frames or (config.get("frames") if options.dataset is None else None)
    own = options.dataset is None and options.split in (None, config.get("split"))
    split, val = (config["split"], config["val"]) if own else (options.split, "auto")
    with rank_zero_first():
        return open_dataset(
            name,
            trained.input_spec,
            split,
            val,
            datasets=datasets,
            frames=frames,
            drawing=drawing_of(trained.checkpoint),
            check=partial(check_classes, trained.classes, "Evaluate it on the data set it was trained on."),
        )


def evaluate_job(
    job: EvaluationJob, options: EvaluationOptions, several: bool
) -> tuple[dict[str, Evaluation], EvaluationRecord]:
    """Evaluates, prints, and writes the results into the run's folder. -> {frame order: Evaluation}, and the record"""
    trained = open_predictor(job.path, options.device)
    folder = job.folder(options.output, several)

    results, seconds = {}, {}
    for order in FRAME_ORDERS if options.temporal else FRAME_ORDERS[:1]:
        start = time.monotonic()
        results[order] = _evaluate_order(job, trained, options, order)
        seconds[order] = time.monotonic() - start

    normal = results["normal"]
    analysis = Analysis(job.frame_set, options.on, normal.probs, normal.labels, normal.clips_right, normal.num_clips)
    record = _record(job, trained, options, analysis, results, seconds["normal"])
    print_record(job.path, record)
    if is_rank_zero():
        per_class = folder / job.stem(options.on) / "per_class.csv"
        print_classes(
            analysis, max(shutil.get_terminal_size((0, CLASS_LINES + OTHER_LINES)).lines - OTHER_LINES, 5), per_class
        )
        _write(folder, job, options, record, analysis)
    return results, record


def evaluate_run(
    run_dir: Path, device: str, workers: int, datasets: dict[str, dict]
) -> tuple[FrameSet, dict[str, Evaluation]]:
    """Evaluates best.pth on the run's own test list, as `python evaluate.py RUN` does, in the process of a training."""
    options = EvaluationOptions(device=device, workers=workers)
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # as evaluate.py
    try:
        job = prepare(broadcast(run_dir) / "best.pth", options, datasets)
        return job.frame_set, evaluate_job(job, options, several=False)[0]
    finally:
        torch.backends.cudnn.allow_tf32 = before  # for the next network of the command


def evaluation_loader(
    frame_set: FrameSet, spec: InputSpec, options: EvaluationOptions, order: str, device: torch.device
) -> tuple[ClipLoader, np.ndarray | None]:
    """The clips to evaluate, this process's share; with windows also the number of the video of each item."""
    if options.windows:
        dataset = WindowDataset(frame_set, spec, options.on, options.windows, options.crops, order)
    else:
        dataset = EvalDataset(frame_set, spec, options.on, options.num_clips, options.crops, order)
    batch_size = max(options.batch_size // dataset.clip_shape[0], 1)
    sampler = EvalBatchSampler(len(dataset), batch_size, rank(), world_size())
    pinned = device.type == "cuda" and torch.cuda.is_available()
    loader = ClipLoader(dataset, batch_size, options.workers, pinned, sampler)
    return loader, dataset.videos if options.windows else None


def _evaluate_order(job: EvaluationJob, trained: Predictor, options: EvaluationOptions, order: str) -> Evaluation:
    loader, videos = evaluation_loader(job.frame_set, trained.input_spec, options, order, trained.device)
    return evaluate_answers(trained.logits_of, loader, options.batch_size, label=f"Evaluating {order}", videos=videos)


def _record(
    job: EvaluationJob,
    trained: Predictor,
    options: EvaluationOptions,
    analysis: Analysis,
    results: dict[str, Evaluation],
    seconds: float,
) -> EvaluationRecord:
    checkpoint, numbers = trained.checkpoint, analysis.numbers()
    record = EvaluationRecord(
        checkpoint=job.path.name,
        weights_hash=trained.weights_hash,
        arithmetic=trained.arithmetic,
        model=trained.name,
        parameters=trained.parameters,
        weights=checkpoint["config"].get("weights"),
        pretraining=None if checkpoint.get("pretrained") else pretraining_of(checkpoint["config"]),
        epoch=checkpoint.get("epoch", 0),
        step=checkpoint.get("step", 0),
        dataset=job.frame_set.source.name,
        official=official_name(job.frame_set),
        split=job.frame_set.split.name,
        split_hash=job.frame_set.split.hash,
        part=options.on,
        leak=job.leak,
        training_known=knows_its_training(checkpoint),
        num_clips=None if options.windows else options.num_clips,
        windows=options.windows,
        crops=options.crops,
        input_spec=trained.input_spec.to_dict(),
        **results["normal"].to_dict() | numbers,
        temporal={order: result.top1 for order, result in results.items()} if options.temporal else None,
        device=device_name(trained.device),
        seconds=seconds,
        clips_per_second=numbers["num_clips_total"] / seconds,
        **provenance(),
    )
    return replace(record, published=[asdict(row) for row in comparable(record)])


def _write(
    folder: Path, job: EvaluationJob, options: EvaluationOptions, record: EvaluationRecord, analysis: Analysis
) -> None:
    """Writes the files and, once for each result of a run's own test, the tags test/... in TensorBoard."""
    stem = job.stem(options.on)
    file = folder / f"{stem}.json"
    logged = is_logged(file, record)
    title = f"{record.model} on {record.place}: video top-1 {record.top1:.1f} %"
    pictures = write_report(folder, stem, record, analysis, title)
    if stem == "test" and options.output is None and not logged:
        log_report(folder, record, analysis, pictures)
    shown = ", ".join(pictures)
    print(f"  {relative_to_cwd(file)}; in {relative_to_cwd(folder / stem)}/: {shown}, per_class.csv, videos.csv")
