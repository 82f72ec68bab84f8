"""Several runs answer the same videos together (evaluate.py --fuse): each alone, the mean of all, and what it gains."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.console import plural, progress, table_line
from common.errors import UsageError, UserError
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero
from dataloaders.frame_set import FrameSet
from dataloaders.transforms import to_model_input
from engine.evaluation.bootstrap import bootstrap_interval
from engine.evaluation.evaluate import Evaluation, by_video
from engine.evaluation.job import EvaluationJob, EvaluationOptions, evaluation_loader, prepare
from engine.evaluation.metrics import topk_correct
from engine.evaluation.report import Analysis, EvaluationRecord, provenance, write_report
from engine.export.runtimes import is_exported
from engine.fusion import SAME_FRAMES, check_same_classes, fuse_models, fused_origin
from engine.hardware.device import device_name, pick_device, to_device
from engine.hardware.distributed import all_gather
from engine.runs.checkpoint import TrainedModel, load_model, weights_hash

ROUNDS = 200  # of the weights' search, which settles within some dozens


@dataclass(frozen=True)
class ClipAnswers:
    """Probabilities (I, N, K) float64 of N clips for each of I items, their labels (I,), and the video of each item."""

    probs: Tensor
    labels: Tensor
    videos: Tensor

    def evaluation(self) -> Evaluation:
        num_items, num_clips, num_classes = self.probs.shape
        flat, labels = self.probs.flatten(0, 1), self.labels.repeat_interleave(num_clips)
        hits = topk_correct(flat, labels).view(num_items, num_clips)
        own = flat.gather(1, labels[:, None]).clamp(min=torch.finfo(flat.dtype).tiny)
        return by_video(self.probs.mean(1), self.labels, self.videos, hits, -own.log().view(num_items, num_clips))


def fuse_runs(
    jobs: Sequence[EvaluationJob], options: EvaluationOptions, weigh: bool, datasets: dict[str, dict]
) -> EvaluationRecord:
    """Evaluates runs one by one and together; prints a table and writes the fused result beside that of the first run.

    weigh: weights that make the validation videos likeliest, else equal ones. Raises UsageError and UserError for runs
    that cannot answer together.
    """
    members = [load_model(job.path) for job in jobs]
    check_same_classes([job.path for job in jobs], [member.classes for member in members])
    _check_same_videos(jobs, options.on)
    weights, chosen = [1 / len(jobs)] * len(jobs), "equal weights"
    if weigh:
        on_val = replace(options, on="val", output=None)
        asked = [prepare(job.path, on_val, datasets, several=True) for job in jobs]
        _check_same_videos(asked, "val")
        answers = answer_clips(members, [job.frame_set for job in asked], on_val)
        weights = likeliest_weights([answer.evaluation() for answer in answers])
        chosen = f"weights chosen on {plural(len(asked[0].frame_set.part('val')), 'validation video')}"

    start = time.monotonic()
    answers = answer_clips(members, [job.frame_set for job in jobs], options)
    seconds = time.monotonic() - start
    together = sum(weight * answer.probs for weight, answer in zip(weights, answers, strict=True))
    evaluations = [*(answer.evaluation() for answer in answers), replace(answers[0], probs=together).evaluation()]
    analyses = [_analysis(jobs[0].frame_set, options.on, evaluation) for evaluation in evaluations]
    record = _record(jobs, members, options, weights, evaluations, analyses, seconds)
    if is_rank_zero():
        print_fusion(jobs, record, analyses, chosen)
        stem = "-".join([jobs[0].stem(options.on), "fused", *(job.path.parent.name for job in jobs[1:])])
        folder = jobs[0].folder(options.output, several=False)
        title = f"{len(jobs)} runs on {record.place}: video top-1 {record.top1:.1f} %"
        write_report(folder, stem, record, analyses[-1], title)
        print(f"  {relative_to_cwd(folder / f'{stem}.json')}; tables and pictures in {relative_to_cwd(folder / stem)}/")
    return record


def answer_clips(
    members: Sequence[TrainedModel], frame_sets: Sequence[FrameSet], options: EvaluationOptions
) -> list[ClipAnswers]:
    """The answers of each network. Those that read the same frames get them from one reading."""
    device = pick_device(options.device)
    together: dict[tuple, list[int]] = defaultdict(list)
    for number, (member, frame_set) in enumerate(zip(members, frame_sets, strict=True)):
        spec = member.input_spec
        together[(frame_set.frames, *(getattr(spec, name) for name in SAME_FRAMES))].append(number)
    found: dict[int, ClipAnswers] = {}
    for place, numbers in enumerate(together.values(), 1):
        fused = fuse_models([members[number] for number in numbers])
        network, spec = to_device(fused.model, device), fused.input_spec
        loader, videos = evaluation_loader(frame_sets[numbers[0]], spec, options, "normal", device)
        rows = []
        for clips, labels, positions in progress(loader, len(loader), f"Evaluating {place}/{len(together)}", "batches"):
            shape = clips.shape[:2]
            probs = [[] for _ in numbers]
            with torch.inference_mode():
                for part in clips.flatten(0, 1).split(options.batch_size):
                    x = to_model_input(part.to(device, non_blocking=True), spec)
                    for of_member, logits in zip(probs, network.answers(x), strict=True):
                        of_member.append(logits.double().softmax(1).cpu())
            rows.append((positions, labels, torch.stack([torch.cat(parts).unflatten(0, shape) for parts in probs], 1)))
        columns = zip(*[row for share in all_gather(rows) for row in share], strict=True)
        positions, labels, probs = (torch.cat(column) for column in columns)
        order = positions.argsort()
        assert torch.equal(positions[order], torch.arange(len(loader.dataset))), "each item once"
        of_video = positions[order] if videos is None else torch.as_tensor(videos)
        for place_in, number in enumerate(numbers):
            found[number] = ClipAnswers(probs[order, place_in], labels[order], of_video)
    answers = [found[number] for number in range(len(members))]
    if len({answer.probs.shape for answer in answers}) > 1:
        raise UsageError("--stride gives these runs other windows, for they read different frames. Use --num-clips.")
    return answers


def likeliest_weights(evaluations: Sequence[Evaluation]) -> list[float]:
    """Weights, with a sum of 1, under which the mean of the probabilities makes the true classes likeliest: those of a
    mixture, by expectation and maximisation (Dempster, Laird and Rubin, 1977). The likelihood is concave in them."""
    labels = evaluations[0].labels
    own = np.stack([evaluation.probs[np.arange(len(labels)), labels] for evaluation in evaluations])  # (M, V)
    weights = np.full(len(own), 1 / len(own))
    for _ in range(ROUNDS):
        shares = weights[:, None] * own + 1e-12
        weights = (shares / shares.sum(0)).mean(1)
    return weights.tolist()


def print_fusion(
    jobs: Sequence[EvaluationJob], record: EvaluationRecord, analyses: Sequence[Analysis], chosen: str
) -> None:
    views = f"windows {record.windows} frames apart" if record.windows else plural(record.num_clips, "clip")
    print(
        f"{plural(len(jobs), 'run')} on {record.place}: {plural(record.num_videos, 'video')}, {views} x "
        f"{plural(record.crops, 'crop')}, {chosen}"
    )
    table = [("", "weight", "video top-1", "95 % interval", "mean class")]
    for name, weight, analysis in zip(_names(jobs), [*record.fused, None], analyses, strict=True):
        bounds = analysis.intervals()["top1"]
        table.append(
            (
                name,
                f"{weight['weight']:.2f}" if weight else "",
                f"{100 * (analysis.ranks == 1).mean():.2f}",
                "{:.1f} to {:.1f}".format(*bounds) if bounds else "",
                f"{analysis.mean_class:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print(f"  {table_line(row, widths[:-1])}")
    *alone, fused = (100.0 * (analysis.ranks == 1) for analysis in analyses)
    groups = analyses[0].groups
    for name, right in zip(_names(jobs), alone, strict=False):
        bounds = bootstrap_interval(fused - right, groups)
        interval = "95 % interval {:+.1f} to {:+.1f}".format(*bounds) if bounds else "no interval: nothing varies"
        recordings = plural(len(set(groups)), "recording")
        print(f"  fused - {name}: {(fused - right).mean():+.2f}   {interval} over {recordings}")
    if record.leak:
        print(f"  NOT A TEST RESULT: {record.leak}")


def _names(jobs: Sequence[EvaluationJob]) -> list[str]:
    return [*(relative_to_cwd(job.path.parent if job.path.name == "best.pth" else job.path) for job in jobs), "fused"]


def check_fusion(paths: Sequence[Path], options: EvaluationOptions) -> None:
    """Raises UsageError for what --fuse cannot take, before anything is opened."""
    if len(paths) < 2:
        raise UsageError("--fuse needs two runs or more: python evaluate.py RUN RUN --fuse")
    if options.temporal:
        raise UsageError("--temporal is for single runs. Leave it out, or --fuse.")
    if exported := next((path for path in paths if is_exported(path)), None):
        raise UsageError(f"--fuse: {exported} is an exported file. Give its run.")


def _check_same_videos(jobs: Sequence[EvaluationJob], part: str) -> None:
    names = [[row.video for row in job.frame_set.part(part)] for job in jobs]
    for job, other in zip(jobs, names, strict=True):
        if other != names[0]:
            first = jobs[0].frame_set
            raise UserError(
                f"{jobs[0].path} and {job.path} have other {part} videos: {plural(len(names[0]), 'video')} of "
                f"{first.source.name}, split {first.split.name}, and {plural(len(other), 'video')} of "
                f"{job.frame_set.source.name}, split {job.frame_set.split.name}. Runs are fused on one split."
            )


def _analysis(frame_set: FrameSet, part: str, evaluation: Evaluation) -> Analysis:
    return Analysis(frame_set, part, evaluation.probs, evaluation.labels, evaluation.clips_right, evaluation.num_clips)


def _record(
    jobs: Sequence[EvaluationJob],
    members: Sequence[TrainedModel],
    options: EvaluationOptions,
    weights: Sequence[float],
    evaluations: Sequence[Evaluation],
    analyses: Sequence[Analysis],
    seconds: float,
) -> EvaluationRecord:
    name = "+".join(member.name for member in members)
    origin, numbers = fused_origin([member.checkpoint for member in members], name), analyses[-1].numbers()
    source = jobs[0].frame_set
    return EvaluationRecord(
        checkpoint=f"{len(jobs)} runs",
        weights_hash="+".join(weights_hash(member.model) for member in members),
        arithmetic="float32",
        model=name,
        parameters=sum(value.numel() for member in members for value in member.model.parameters()),
        weights=None,
        pretraining=None,
        epoch=origin["epoch"],
        step=origin["step"],
        dataset=source.source.name,
        official=None,
        split=source.split.name,
        split_hash=source.split.hash,
        part=options.on,
        leak=next((job.leak for job in jobs if job.leak), None),
        training_known=bool(origin["split"].get("training_groups")),
        num_clips=None if options.windows else options.num_clips,
        windows=options.windows,
        crops=options.crops,
        input_spec=members[0].input_spec.to_dict(),
        **evaluations[-1].to_dict() | numbers,
        temporal=None,
        device=device_name(pick_device(options.device)),
        seconds=seconds,
        clips_per_second=numbers["num_clips_total"] / seconds,
        **provenance(),
        fused=[
            {"run": job.path.parent.name, "model": member.name, "weight": weight, "top1": evaluation.top1}
            for job, member, weight, evaluation in zip(jobs, members, weights, evaluations[:-1], strict=True)
        ],
    )
