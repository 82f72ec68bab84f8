"""Checks before training starts, so that mistakes fail in seconds, and the summary printed then."""

import re
import shlex
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.console import plural
from common.errors import UserError
from common.files import printable, relative_to_cwd
from common.torchrun import world_size
from dataloaders.audit.findings import leak_warning
from dataloaders.dataset import TrainDataset
from dataloaders.frame_set import FrameSet
from dataloaders.sources.data_source import DataSource
from engine.hardware.device import autocast, cudnn_version, cudnn_warning, device_name
from engine.hardware.distributed import all_gather
from engine.training.config import TrainConfig, lr_scale
from engine.training.run import Run
from network import InputSpec, model_entry
from network.weights.loaded import LoadedWeights

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
MISSING_VALUES = frozenset("nan na n/a none null".split())
SEEN = {"rgb": "frames", "diff": "differences of frames", "rgb+diff": "frames with their differences"}


def check_parts(frame_set: FrameSet, spec: InputSpec) -> None:
    """Prints notes and warnings about the split, and refuses one without training videos."""
    for note in frame_set.split.notes:
        print(f"Note: {note}")
    if not frame_set.part("train"):
        raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no training videos.")
    if len(frame_set.classes) < 2:
        raise UserError(
            f"{frame_set.source.name} has only the class '{frame_set.classes[0]}'. Training needs two or more."
        )
    warn_of_class_names(frame_set.classes)
    rows, source = frame_set.rows, frame_set.source
    if frame_set.split.name == "random" and not source.groups and len({row.group for row in rows}) == len(rows):
        print(
            "Note: each video counts as a separate recording. If several were cut from one recording, training and "
            "test may share it: set 'groups' in mypath.py, or give a list with a group column."
        )
    if not frame_set.part("test"):
        print(f"WARNING: split {frame_set.split.name} has no test videos of {frame_set.source.name}.")
    training = TrainDataset(frame_set, spec)  # raises where the stored frames do not give these clips
    short = [span for row, span in zip(training.rows, training.spans, strict=True) if row.num_frames < span]
    if 10 * len(short) >= len(training):  # a few short ones are usual, and python -m dataloaders.audit names them
        print(
            f"WARNING: {len(short):,} of {plural(len(training), 'training video')} are shorter than a clip, which "
            f"spans {max(short):,} frames, and repeat. Use a smaller --clip-len or --frame-stride."
        )
    unknown = [row.video for row in frame_set.rows if not row.fps]
    if spec.fps and unknown:
        print(
            f"WARNING: this model expects {spec.fps:g} frames a second, and the frame rate of "
            f"{plural(len(unknown), 'video')} is unknown (first: {unknown[0]}). Their clips have stride "
            f"{spec.frame_stride} instead."
        )
    if not spec.fps and not all(row.quality for row in frame_set.rows):
        print(
            "Note: these frames were made by another program. If it left some out, inference on videos reads frames "
            "that lie closer together than those learnt from: extract them with python -m dataloaders.preprocess."
        )
    untrained = sorted(set(frame_set.classes) - {row.label for row in frame_set.part("train")})
    if untrained:
        print(f"WARNING: no training video in {plural(len(untrained), 'class')}: {printable(', '.join(untrained[:5]))}")


def warn_of_class_names(classes: Sequence[str]) -> None:
    """Prints a warning about classes that are probably one, and about one that is probably an empty cell of a table."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault(re.sub(r"[\W_]+", "", name).casefold() or name, []).append(name)
    alike = [names for names in spellings.values() if len(names) > 1]
    if alike:
        more = f", and {plural(len(alike) - 1, 'other group')}" if len(alike) > 1 else ""
        print(
            f"WARNING: {printable(' and '.join(alike[0]))} are separate classes, though their names differ only in "
            f"case, spaces or signs{more}. Give them one name if they are one action."
        )
    missing = [name for name in classes if name.casefold() in MISSING_VALUES]
    if missing:
        print(f"WARNING: there is a class '{missing[0]}', as programs write a label that is missing.")


def warn_of_leaks(frame_set: FrameSet, config: TrainConfig) -> None:
    """Prints a warning where the split leaks."""
    words = ["--dataset", config.dataset, "--split", frame_set.split.name]
    words += ["--frames", config.frames] if config.frames else []
    words += ["--val", "none"] if config.val == "none" else []
    warning = leak_warning(
        frame_set.source, frame_set.split, frame_set.rows, f"python -m dataloaders.audit {shlex.join(words)}"
    )
    if warning:
        print(warning)


def pick_flip(config: TrainConfig, source: DataSource) -> bool:
    """Whether training mirrors clips: --flip, else the data set's setting, else no, with a note."""
    if config.flip is not None:
        return config.flip
    if source.flip is None:
        print("Clips are not mirrored. If a mirrored video shows the same action, add --flip.")
    return bool(source.flip)


def check_same_videos(checkpoint: dict, frame_set: FrameSet) -> None:
    """Raises a UserError where the videos are not those that a checkpoint was trained on."""
    if frame_set.split.hash != checkpoint["split"]["hash"]:
        raise UserError(
            f"The videos of '{frame_set.source.name}' or their split differ from those of this run, so it cannot be "
            "resumed. Begin a new run; --weights accepts this run's best.pth."
        )


def check_same_content(checkpoint: dict, frame_set: FrameSet, most: int | None = None) -> None:
    """Raises a UserError where the frames are others than those that a run was trained on. most: looks at as many
    videos."""
    known = checkpoint["split"].get("training_content")  # runs of older versions do not know it
    differ = frame_set.changed(frame_set.part("train"), known or (), most)
    if differ:
        raise UserError(
            f"{frame_set.frames} has other frames of {plural(len(differ), 'training video')} than those that this run "
            f"was trained on (first: {differ[0].video}): another size, rate or quality, or other videos. Extract them "
            "with the same settings, or begin a new run."
        )


def print_run(run: Run) -> None:
    """Prints the run's summary: model, data, clips, training, folder."""
    config, spec, frame_set = run.config, run.spec, run.frame_set
    videos = {part: len(frame_set.part(part)) for part in ("train", "val", "test", "unused")}
    parts = ", ".join(f"{number:,} {part}" for part, number in videos.items() if number)
    rate = f"{spec.fps:g} a second" if spec.fps else f"stride {spec.frame_stride}"
    values = sum(parameter.numel() for parameter in run.model.parameters())
    print(f"Model    {config.model}, {values / 1e6:.1f} M parameters, {plural(len(frame_set.classes), 'class')}")
    recordings = len({row.group for row in frame_set.rows})
    print(
        f"Data     {frame_set.source.name}, split {frame_set.split.name}: {parts} videos, of "
        f"{plural(recordings, 'recording')}"
    )
    print(
        f"Clips    {spec.clip_len} {SEEN[spec.input]}, {rate}, {spec.crop_size}x{spec.crop_size} of "
        f"{spec.resize[0]}x{spec.resize[1]}, {'mirrored at random' if config.flip else 'not mirrored'}"
    )
    frozen = f", {config.freeze} frozen" if config.freeze != "none" else ""
    print(f"Weights  {printable(config.weights) if config.weights else 'random: trained from scratch'}{frozen}")
    print(f"Recipe   {config.recipe}: {regularisers(config)}")
    print(
        f"Training {plural(config.epochs, 'epoch')}, {config.optimizer} {config.lr:g}, {_step_size(config)}, "
        f"on {device_name(run.device)}, {str(run.amp or torch.float32).removeprefix('torch.')}"
    )
    print(f"Run      {relative_to_cwd(run.run_dir)}")
    advice = model_entry(config.model).defaults.from_scratch
    if advice and not config.weights:
        print(f"Note: {advice}")
    warning = cudnn_warning(cudnn_version())
    if run.amp and warning:
        print(warning)


def regularisers(config: TrainConfig) -> str:
    """weight decay 0.01, mixup 0.2, ...: what works against overfitting."""
    names = "weight_decay dropout label_smoothing mixup cutmix colour_jitter stride_jitter ema early_stopping".split()
    found = [f"{name.replace('_', ' ')} {value:g}" for name in names if (value := getattr(config, name))]
    found += [f"zoom {config.zoom:g}"] if config.zoom not in (None, 1) else []
    found += ["balanced classes"] if config.class_weights == "balanced" else []
    return ", ".join(found) or "nothing against overfitting"


def _step_size(config: TrainConfig) -> str:
    clips = config.batch_size * config.accumulate * world_size()
    if clips == config.batch_size:
        return f"batches of {clips}"
    batches = f"{config.accumulate} x {config.batch_size}"
    return f"steps of {clips} clips ({batches}{f' on each of {world_size()} processes' if world_size() > 1 else ''})"


def print_learning_rate(given: TrainConfig, config: TrainConfig) -> None:
    """Prints how the learning rate was chosen, where a step has another number of clips than the model's default."""
    defaults = model_entry(config.model).defaults
    clips = config.batch_size * config.accumulate * world_size()
    if given.lr is None and clips != defaults.batch_size:
        own = config.lr / lr_scale(config.optimizer, clips / defaults.batch_size)
        how = "in proportion to" if config.optimizer == "sgd" else "by the square root of the ratio to"
        print(
            f"Learning rate {config.lr:g}: {own:g} for steps of {defaults.batch_size} clips, the model's own, {how} "
            f"{clips}. --lr sets another."
        )
    elif given.lr is not None and clips != config.batch_size:
        print(f"Learning rate {config.lr:g} as given, for steps of {clips} clips.")


def check_same_videos_on_all_ranks(frame_set: FrameSet) -> None:
    """Raises UserError where ranks read different videos, as with incomplete copies of the frames."""
    num_frames = sum(row.num_frames for row in frame_set.rows)
    found = all_gather((frame_set.split.hash, len(frame_set.rows), num_frames))
    other = next((rank for rank, mine in enumerate(found) if mine != found[0]), None)
    if other is not None:
        raise UserError(
            f"Process {other} has {found[other][1]:,} videos with {found[other][2]:,} frames in {frame_set.frames}, "
            f"and process 0 has {found[0][1]:,} with {found[0][2]:,}, or their split differs. Copy one folder to all "
            "machines, or put it on a shared disk."
        )


def seen_by_weights(weights: LoadedWeights, dataset: str, frame_set: FrameSet) -> dict[str, list[str]]:
    """Recordings, where their names mean the same here, and videos that the weights' own training has seen; with a
    warning where they are tested on. They go into the checkpoint, and evaluate.py refuses what would mean nothing."""
    rows, groups, content = frame_set.part("test"), [], weights.seen.get("seen_content", [])
    if weights.trained_on == dataset or frame_set.source.kind.same_groups:
        groups = weights.seen.get("seen_groups", [])
    tested, what = sorted({row.group for row in rows} & set(groups)), "recording"
    if not tested and content:
        own = frame_set.part("train") + frame_set.part("val")  # official lists have copies in both parts
        known = set(content) - set(frame_set.content_ids(own))
        tested = [row.video for row, own in zip(rows, frame_set.content_ids(rows), strict=True) if own in known]
        what = "video"
    if tested:
        print(
            f"WARNING: {weights.origin} was trained on {plural(len(tested), what)} that split "
            f"{frame_set.split.name} tests on (first: {tested[0]}). evaluate.py will refuse that test."
        )
    return {"seen_groups": groups, "seen_content": content}


def check_frozen_parameters(frozen: tuple[str, ...], new: list[str], origin: str) -> None:
    """Raises UserError where --freeze would keep parameters at random values, since the weights lack them."""
    inside = tuple(f"{part}." for part in frozen)
    lost = [name for name in new if name.startswith(inside) and not name.endswith(BUFFERS)]
    if frozen and lost:
        raise UserError(
            f"--freeze would keep {plural(len(lost), 'parameter')} at random values: {origin} has no "
            f"{lost[0]}. Train without --freeze."
        )


def dry_run(
    model: nn.Module, spec: InputSpec, device: torch.device, amp: torch.dtype | None, smallest_batch: int
) -> None:
    """Runs one clip through the network, so that a size it cannot take fails before the run begins. So does a batch of
    one clip whose maps have shrunk to one value: a batch norm has nothing to take a variance of."""
    clip = torch.zeros(1, spec.channels, spec.clip_len, spec.crop_size, spec.crop_size, device=device)
    single, hooks = [], []
    for name, module in model.train().named_modules():
        # not a frozen one, and none with an answer of its own, as RowNorm
        if isinstance(module, _BatchNorm) and module.training and type(module).forward is _BatchNorm.forward:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: single.append(name) if args[0].numel() == args[0].shape[1] else None
                )
            )
    model.eval()
    with torch.inference_mode(), autocast(device, amp):
        model(clip)
    for hook in hooks:
        hook.remove()
    if single and smallest_batch == 1:
        raise UserError(
            f"A batch of this run has one clip, of which the batch norm {single[0]} sees a single value per channel, "
            "too few to train with. Choose another --batch-size, or larger clips (--clip-len, --crop-size)."
        )
