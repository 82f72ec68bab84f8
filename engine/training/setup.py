"""A training run begun from its configuration, or resumed from its checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch

from common.console import plural
from common.errors import UserError
from common.files import ROOT, relative_to_cwd
from common.torchrun import is_rank_zero, local_world_size, rank, world_size
from common.worker_process import num_processors
from dataloaders.dataset import check_cache_memory, of_frames, open_frames
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.sources.data_source import find_source
from engine.hardware.deterministic import check_deterministic_kernels, set_deterministic
from engine.hardware.device import check_compiler, pick_amp, pick_device, to_device
from engine.hardware.distributed import broadcast, rank_zero_first, seed_process
from engine.runs.checkpoint import find_checkpoint, load_checkpoint, load_state, restore_random_state, spec_of
from engine.runs.environment import environment
from engine.runs.folder import create_run_dir, empty_run_dir, find_unsaved, record_launch
from engine.training.checks import (
    SEEN,
    check_frozen_parameters,
    check_parts,
    check_same_videos_on_all_ranks,
    dry_run,
    other_classes,
    pick_flip,
    print_learning_rate,
    print_run,
    seen_recordings,
    warn_of_leaks,
)
from engine.training.config import TrainConfig, saved_settings
from engine.training.run import Progress, Run, build_run, out_of_patience
from network import create_model, input_spec
from network.base import freeze
from network.weights.read import load_into, read_weights


def begin_run(config: TrainConfig, datasets: dict[str, dict], runs: Path, run_dir: Path | None = None) -> Run:
    """Everything is checked before the run's folder is made, so that a mistake leaves nothing behind.

    run_dir: of a run that ended before its first checkpoint, and is begun again.
    """
    given = config
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    spec = input_spec(config.model)
    source = find_source(config.dataset, datasets, ROOT, config.frames)
    with rank_zero_first():
        weights = read_weights(config.weights, config.model) if config.weights else None
    spec = config.adapt(weights.input_spec if weights and weights.input_spec else spec)

    with rank_zero_first():
        ensure_frames(source, spec.resize, config.split)
        frame_set = open_frames(source, spec, config.split, config.val, any_aspect=True)
    spec = of_frames(spec, frame_set)
    check_same_videos_on_all_ranks(frame_set)
    check_parts(frame_set, spec)
    warn_of_leaks(frame_set, config)
    if config.early_stopping and not frame_set.part("val"):
        raise UserError(f"--early-stopping goes by the validation, and {source.name} has no validation videos.")
    if config.cache == "ram":
        check_cache_memory(frame_set, spec)
    config = replace(
        config,
        dataset=config.dataset if config.dataset in datasets else source.address,
        frames=str(source.frames) if config.frames else None,
    ).resolved(spec, pick_flip(config, source), frame_set.split.name, default_workers(), world_size())

    torch.manual_seed(config.seed)
    options = (weights.options if weights else {}) | config.build_options()
    if spec.channels != options.get("in_channels", 3):
        options["in_channels"] = spec.channels
    model = create_model(config.model, len(frame_set.classes), **options)
    new, seen = [], []
    if weights:
        seen = seen_recordings(weights, config.dataset, frame_set)
        report = load_into(model, weights, frame_set.classes)
        print(report.table())
        new = list(report.reinitialised)
        check_frozen_parameters(freeze(model, config.freeze), new, weights.origin)
        if report.widened and config.freeze != "none":
            raise UserError(
                f"--freeze would keep the first layer blind to half of its input: {report.widened} Train without "
                "--freeze, or with another --input."
            )
        saw = weights.input_spec.input if weights.input_spec else "rgb"
        if spec.input != saw and not report.widened:
            print(f"Note: the weights saw {SEEN[saw]}; from here on the network sees {SEEN[spec.input]}.")
    dry_run(to_device(model, device), spec, device, amp)
    if config.compile:
        check_compiler(device)
    if config.deterministic:
        check_deterministic_kernels(model, spec, device, amp)
    if is_rank_zero():
        if run_dir is None:
            run_dir = create_run_dir(runs, f"{config.model}-{source.name}", config.name)
            record_launch(run_dir, given.to_dict())
        empty_run_dir(run_dir)
        config.save(run_dir / "config.json", environment=environment(device))
    run_dir = broadcast(run_dir)
    run = build_run(config, run_dir, device, amp, spec, frame_set, model, new, seen, Progress())
    seed_process(config.seed)
    print_run(run)
    print_learning_rate(given, config)
    run.tracker.hparams(run.config.to_dict())
    return run


def resume_run(given: TrainConfig, datasets: dict[str, dict], runs: Path) -> Run:
    """A run as its last.pth left it; --epochs, --workers, --cache, --device and the number of processes may
    be others."""
    unsaved = broadcast(find_unsaved(given.resume, runs))
    if unsaved:
        print(f"{relative_to_cwd(unsaved)} ended before its first checkpoint and begins again.")
        settings, environment_then = broadcast(saved_settings(unsaved / "config.json") if is_rank_zero() else None)
        config = regrouped(changed(settings, given), environment_then.get("processes", 1))
        return begin_run(config, datasets, runs, unsaved)
    path = broadcast(find_checkpoint(given.resume, runs, "last.pth") if is_rank_zero() else None)
    checkpoint = broadcast(load_checkpoint(path, for_resume=True) if is_rank_zero() else None)
    config = changed(TrainConfig.from_dict(checkpoint["config"]), given)
    if checkpoint["epoch"] >= config.epochs:
        raise UserError(
            f"{path.parent} has done {plural(checkpoint['epoch'], 'epoch')}. To go on, say how far: "
            f"--epochs {checkpoint['epoch'] + 1} or more."
        )

    config = regrouped(config, checkpoint.get("processes", 1))
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    if config.compile:
        check_compiler(device)
    spec = spec_of(path, checkpoint)
    source = find_source(config.dataset, datasets, ROOT, config.frames)
    with rank_zero_first():
        ensure_frames(source, spec.resize, config.split)
        frame_set = open_frames(source, spec, config.split, config.val)
    if frame_set.classes != checkpoint["classes"]:
        raise UserError(
            f"{other_classes(checkpoint['classes'], frame_set)} A run goes on with its own classes only. Begin a new "
            "run; --weights takes this one's best.pth."
        )
    if frame_set.split.hash != checkpoint["split"]["hash"]:
        raise UserError(
            f"The videos of '{source.name}' or their division are not those this run began with, so it cannot go on "
            "where it was. Begin a new run; --weights takes this one's best.pth."
        )

    if config.cache == "ram":
        check_cache_memory(frame_set, spec)
    model = create_model(config.model, len(frame_set.classes), **checkpoint.get("model_options", {}))
    load_state(model, checkpoint["model"], path)
    best_epoch = checkpoint.get("best_epoch", checkpoint["epoch"])
    best = checkpoint["best_top1"], checkpoint["best_loss"], best_epoch
    progress = Progress(checkpoint["epoch"], checkpoint["step"], *best)
    if out_of_patience(config, progress):
        if not given.epochs:
            raise UserError(
                f"{path.parent} stopped early, {plural(config.early_stopping, 'epoch')} after its best one. To go on "
                f"all the same, say how far: --epochs {config.epochs}"
            )
        progress.best_epoch = progress.epoch  # patience begins anew
    amp = pick_amp(config.amp, device)
    new, seen = checkpoint["new_parameters"], checkpoint["split"].get("seen_groups", [])
    run = build_run(config, path.parent, device, amp, spec, frame_set, model, new, seen, progress)
    run.optimizer.load_state_dict(checkpoint["optimizer"])  # after the model has moved: its state goes along
    run.scaler.load_state_dict(checkpoint["scaler"])
    if run.ema is not None:
        run.ema.load(checkpoint["ema"])
    if is_rank_zero():
        for name, mean in progress.means().items():
            mean.load(checkpoint["means"][name])
        config.save(run.run_dir / "config.json", environment=environment(device))
    if str(rank()) in checkpoint["random"]:
        restore_random_state(checkpoint["random"][str(rank())], device)
    else:
        seed_process(config.seed + progress.step)
    run.tracker.drop_epochs(progress.epoch)
    print_run(run)
    steps = progress.step - progress.epoch * run.train_loader.batch_sampler.num_steps
    print(f"Going on after {plural(progress.epoch, 'epoch')} and {plural(steps, 'step')}.")
    return run


def changed(settings: TrainConfig, given: TrainConfig) -> TrainConfig:
    """A run's settings with what may be changed when it is resumed."""
    return replace(
        settings,
        epochs=given.epochs or settings.epochs,
        workers=settings.workers if given.workers is None else given.workers,
        cache=given.cache or settings.cache,
        device=settings.device if given.device == "auto" else given.device,
    )


def regrouped(config: TrainConfig, processes_then: int) -> TrainConfig:
    """The same clips a step on another number of processes, by accumulating more or fewer batches."""
    if processes_then == world_size():
        return config
    clips = config.batch_size * config.accumulate * processes_then
    at_once = config.batch_size * world_size()
    if clips % at_once:
        raise UserError(
            f"This run makes steps of {clips} clips, {config.batch_size} at once on each of {processes_then} "
            f"processes. Batches on {world_size()} do not add up to that: resume it with a number of processes that "
            f"divides {clips // config.batch_size}."
        )
    print(f"On {plural(world_size(), 'process')} instead of {processes_then}, steps stay at {clips} clips.")
    return replace(config, accumulate=clips // at_once)


def default_workers() -> int:
    """Threads that read clips: the processors of this machine, divided among its processes, at most 8."""
    return max(min(num_processors() // local_world_size(), 8), 1)
