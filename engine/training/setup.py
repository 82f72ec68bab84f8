"""Set-up of a training run: begun from its configuration, or resumed from its checkpoint.

Both open the data, build the model and check that it can be trained, before anything is written.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
from filelock import BaseFileLock

from common.console import plural
from common.errors import UserError
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero, local_world_size, world_size
from common.worker_process import num_processors
from dataloaders import open_dataset
from dataloaders.batch_sampler import TrainBatchSampler
from dataloaders.frame_set import FrameSet, check_cache_memory, of_frames
from dataloaders.sources.data_source import DRAWING, check_classes
from engine.hardware.deterministic import check_deterministic_kernels, set_deterministic
from engine.hardware.device import check_compiler, pick_amp, pick_device, to_device
from engine.hardware.distributed import broadcast, rank_zero_first, seed_process
from engine.runs.checkpoint import drawing_of, find_checkpoint, load_checkpoint, load_state, spec_of
from engine.runs.environment import environment
from engine.runs.folder import create_run_dir, empty_run_dir, find_unsaved, lock_run, record_launch
from engine.training.checkpointing import changed, regrouped, restore_state, restored_progress
from engine.training.checks import (
    SEEN,
    check_frozen_parameters,
    check_parts,
    check_same_content,
    check_same_videos,
    check_same_videos_on_all_ranks,
    dry_run,
    pick_flip,
    print_learning_rate,
    print_run,
    seen_by_weights,
    warn_of_leaks,
)
from engine.training.config import TrainConfig, saved_settings
from engine.training.run import Machine, Model, Progress, Run, build_run
from network import InputSpec, create_model, input_spec
from network.base import freeze
from network.cost import count_macs, without_values
from network.weights.load import load_into
from network.weights.loaded import LoadedWeights
from network.weights.read import read_weights

# Measured on one H200 (r3d_18, bf16, 2026-11-26): 1,067 clips/s of 40.7 GMACs without torch.compile, 1.31 times as many
# with it, after 27 s. Slower GPUs train for longer, and compile for as long.
EAGER_MACS = 1067 * 40.7e9
WORTH_COMPILING = 180.0  # seconds of training
SOME_VIDEOS = 200  # whose content is compared before a run goes on in its place


def begin_run(
    config: TrainConfig,
    datasets: dict[str, dict],
    runs: Path,
    run_dir: Path | None = None,
    lock: BaseFileLock | None = None,
) -> Run:
    """Sets up a new run. The run's folder is made last, so a mistake leaves nothing behind.

    run_dir: the folder of a run that ended before its first checkpoint and starts again, with its lock on rank zero.
    """
    given = config
    machine = set_up_machine(config)
    spec, weights = read_input(config)
    frame_set = open_data(config, spec, datasets, any_aspect=True)
    spec = of_frames(spec, frame_set)
    config = resolve(config, spec, frame_set, datasets)
    model = build_model(config, spec, frame_set, weights)
    check_trainable(config, machine, spec, model.network, frame_set)
    config = replace(config, compile=pick_compile(config, machine.device, spec, frame_set))
    run_dir = broadcast(make_run_dir(given, config, machine, frame_set, runs, run_dir) if is_rank_zero() else None)
    lock = lock or (lock_run(run_dir) if is_rank_zero() else None)
    run = build_run(config, run_dir, machine, spec, frame_set, model, Progress(), lock)
    seed_process(config.seed)
    print_run(run)
    print_learning_rate(given, config)
    run.tracker.hparams(run.config.to_dict())
    return run


def resume_run(given: TrainConfig, datasets: dict[str, dict], runs: Path) -> Run:
    """Continues a run from its last.pth. --epochs, --workers, --cache, --device, the place of
    the data and the number of ranks may differ."""
    unsaved = broadcast(find_unsaved(given.resume, runs))
    if unsaved:
        return begin_again(unsaved, given, datasets, runs)
    path = broadcast(find_checkpoint(given.resume, runs, "last.pth") if is_rank_zero() else None)
    lock = lock_run(path.parent) if is_rank_zero() else None
    checkpoint = broadcast(load_checkpoint(path, for_resume=True) if is_rank_zero() else None)
    config = changed(TrainConfig.from_dict(checkpoint["config"]), given)
    if checkpoint["epoch"] >= config.epochs:
        raise UserError(
            f"{path.parent} has done {plural(checkpoint['epoch'], 'epoch')}. To continue, give a higher number: "
            f"--epochs {checkpoint['epoch'] + 1} or more."
        )
    config = regrouped(config, checkpoint.get("processes", 1))
    machine = set_up_machine(config)
    if config.compile == "on":
        config = replace(config, compile=on_if_possible(machine.device))
    spec = spec_of(path, checkpoint)
    advice = "A run cannot change its classes. Begin a new run; --weights accepts this run's best.pth."
    same_classes = partial(check_classes, checkpoint["classes"], advice)
    frame_set = open_data(config, spec, datasets, drawing=drawing_of(checkpoint), check=same_classes)
    check_same_videos(checkpoint, frame_set)
    moved = given.dataset or given.frames
    check_same_content(checkpoint, frame_set, None if moved else SOME_VIDEOS)
    if moved:
        config = with_address(config, frame_set, datasets)
    network = create_model(config.model, len(frame_set.classes), **checkpoint.get("model_options", {}))
    load_state(network, checkpoint["model"], path)
    seen = {name: checkpoint["split"].get(name, []) for name in ("seen_groups", "seen_content")}
    model = Model(network, checkpoint["new_parameters"], seen)
    progress = restored_progress(path, checkpoint, config, given)
    run = build_run(config, path.parent, machine, spec, frame_set, model, progress, lock)
    restore_state(run, checkpoint)
    print_run(run)
    steps = run.progress.step - run.progress.epoch * run.train_loader.batch_sampler.num_steps
    print(f"Continuing after {plural(run.progress.epoch, 'epoch')} and {plural(steps, 'step')}.")
    return run


def begin_again(run_dir: Path, given: TrainConfig, datasets: dict[str, dict], runs: Path) -> Run:
    """Begins a run anew, in its folder, that ended before its first checkpoint."""
    print(f"{relative_to_cwd(run_dir)} ended before its first checkpoint and starts again.")
    lock = lock_run(run_dir) if is_rank_zero() else None
    settings, saved_environment = broadcast(saved_settings(run_dir / "config.json") if is_rank_zero() else None)
    config = regrouped(changed(settings, given), saved_environment.get("processes", 1))
    return begin_run(config, datasets, runs, run_dir, lock)


def set_up_machine(config: TrainConfig) -> Machine:
    """Picks device and precision, and sets PyTorch to deterministic kernels where asked for."""
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    return Machine(device, pick_amp(config.amp, device))


def read_input(config: TrainConfig) -> tuple[InputSpec, LoadedWeights | None]:
    """Returns the input of the network, that of its weights where it has some, and these weights."""
    with rank_zero_first():
        weights = read_weights(config.weights, config.model) if config.weights else None
    return config.adapt((weights and weights.input_spec) or input_spec(config.model)), weights


def open_data(
    config: TrainConfig,
    spec: InputSpec,
    datasets: dict[str, dict],
    any_aspect: bool = False,
    drawing: int = DRAWING,
    check: Callable[[list[str], str], None] | None = None,
) -> FrameSet:
    """Opens the data set, after extracting missing frames, and checks that all ranks read the same videos.

    any_aspect: frames that keep their aspect are fine too, for a network that is still to be trained.
    """
    with rank_zero_first():
        frame_set = open_dataset(
            config.dataset,
            spec,
            config.split,
            config.val,
            datasets=datasets,
            frames=config.frames,
            any_aspect=any_aspect,
            drawing=drawing,
            check=check,
        )
    check_same_videos_on_all_ranks(frame_set)
    if config.cache == "ram":
        check_cache_memory(frame_set, spec)
    return frame_set


def resolve(config: TrainConfig, spec: InputSpec, frame_set: FrameSet, datasets: dict[str, dict]) -> TrainConfig:
    """Checks the data against the settings, and fills in what the data set, the recipe and the model decide."""
    check_parts(frame_set, spec)
    warn_of_leaks(frame_set, config)
    source = frame_set.source
    if config.test and not frame_set.part("test"):
        raise UserError(
            f"--test needs test videos, and split {frame_set.split.name} of {source.name} has none. Use --split "
            "random, or --folds 5, which tests every video once."
        )
    if config.early_stopping and not frame_set.part("val"):
        raise UserError(f"--early-stopping needs validation videos, and {source.name} has none.")
    config = with_address(config, frame_set, datasets)
    flip = pick_flip(config, source)
    if (config.workers or 0) > 2 * num_processors():
        print(f"Note: --workers {config.workers} on {plural(num_processors(), 'processor')}; use fewer.")
    return config.resolved(spec, flip, frame_set.split.name, default_workers(), world_size())


def with_address(config: TrainConfig, frame_set: FrameSet, datasets: dict[str, dict]) -> TrainConfig:
    """The settings with the data set's name in mypath.py, or with its address from the root folder."""
    source = frame_set.source
    return replace(
        config,
        dataset=config.dataset if config.dataset in datasets else source.address,
        frames=str(source.frames) if config.frames else None,
    )


def build_model(config: TrainConfig, spec: InputSpec, frame_set: FrameSet, weights: LoadedWeights | None) -> Model:
    """Builds the network from the seed and loads the pretrained weights into it."""
    torch.manual_seed(config.seed)
    options = (weights.options if weights else {}) | config.build_options()
    if spec.channels != options.get("in_channels", 3):
        options["in_channels"] = spec.channels
    network = create_model(config.model, len(frame_set.classes), **options)
    if not weights:
        return Model(network, [], {})
    seen = seen_by_weights(weights, config.dataset, frame_set)
    report = load_into(network, weights, frame_set.classes)
    print(report.table())
    new_parameters = list(report.reinitialised)
    check_frozen_parameters(freeze(network, config.freeze), new_parameters, weights.origin)
    if report.widened and config.freeze != "none":
        raise UserError(
            f"--freeze would keep the first layer's new channels at zero: {report.widened} Train without "
            "--freeze, or with another --input."
        )
    trained_input = weights.input_spec.input if weights.input_spec else "rgb"
    if spec.input != trained_input and not report.widened:
        print(f"Note: the weights were trained on {SEEN[trained_input]}; this run trains on {SEEN[spec.input]}.")
    return Model(network, new_parameters, seen)


def check_trainable(
    config: TrainConfig, machine: Machine, spec: InputSpec, network: nn.Module, frame_set: FrameSet
) -> None:
    """Moves the network to the device and runs a clip through it, so that a wrong size fails in seconds."""
    clips = len(frame_set.part("train")) * config.clips_per_video
    smallest = TrainBatchSampler(clips, config.batch_size, config.accumulate, 0, world_size()).smallest_batch
    dry_run(to_device(network, machine.device), spec, machine.device, machine.amp, smallest)
    if config.compile == "on":
        check_compiler(machine.device)
    if config.deterministic:
        check_deterministic_kernels(network, spec, machine.device, machine.amp)


def pick_compile(config: TrainConfig, device: torch.device, spec: InputSpec, frame_set: FrameSet) -> str:
    """Returns "on" or "off" for --compile auto: on where a GPU trains for long enough that compiling pays off."""
    if config.compile != "auto":
        return config.compile
    if device.type != "cuda":
        return "off"
    options = {"in_channels": spec.channels} if spec.channels != 3 else {}
    macs = count_macs(*without_values(config.model, len(frame_set.classes), spec, **options))
    clips = len(frame_set.part("train")) * config.clips_per_video * config.epochs / world_size()
    if clips * macs / EAGER_MACS < WORTH_COMPILING:
        return "off"
    return on_if_possible(device)


def on_if_possible(device: torch.device) -> str:
    """Returns "on", or "off" with a note where this machine has no compiler."""
    try:
        check_compiler(device)
    except UserError as error:
        print(f"Note: the network is not compiled, and trains more slowly. {error}")
        return "off"
    print("The network is compiled before its first step, which takes about half a minute.")
    return "on"


def make_run_dir(
    given: TrainConfig, config: TrainConfig, machine: Machine, frame_set: FrameSet, runs: Path, run_dir: Path | None
) -> Path:
    """Makes the run's folder, or empties the one that is begun again, and writes config.json into it."""
    if run_dir is None:
        run_dir = create_run_dir(runs, f"{config.model}-{frame_set.source.name}", config.name)
        record_launch(run_dir, given.to_dict())
    empty_run_dir(run_dir)
    config.save(run_dir / "config.json", environment=environment(machine.device))
    return run_dir


def default_workers() -> int:
    """Worker processes that read clips: a processor each, divided among the ranks of this machine, at most 16."""
    return max(min(num_processors() // local_world_size(), 16), 1)
