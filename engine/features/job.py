"""The commands of features.py: extract, svm and predict."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from common.console import plural, progress
from common.drawing import save_picture
from common.errors import UsageError, UserError
from common.files import ROOT, check_writable, file_size, printable, relative_to_cwd, write_atomically
from dataloaders import open_dataset
from dataloaders.sources.find import find_source
from dataloaders.sources.layout import SPLIT_NUMBERS
from engine.evaluation.bootstrap import mean_and_deviation
from engine.evaluation.confusion import confusion_csv, draw_confusion
from engine.evaluation.published import pretraining_of
from engine.features.extraction import FeatureExtractor, entries_of_frames, extract_data_set, extract_videos
from engine.features.layers import layer_reader
from engine.features.pooling import pool_windows
from engine.features.protocol import FeatureSet, Outcome, is_whole_ucf101, open_features, run_split, seen_in_training
from engine.features.store import FORMAT, STEP, FeatureEntry, FeatureWriter
from engine.features.svm import load_svm, save_svm
from engine.hardware.device import pick_device, to_device
from engine.hardware.low_precision import LowPrecisionModel, features_differ, pick_precision
from engine.inference.prediction import likeliest
from engine.inference.sources import find_sources
from engine.runs.checkpoint import find_checkpoint, load_model, weights_hash
from network import InputSpec, create_model, input_spec
from network.base import VideoModel
from network.weights.read import load_into, read_weights

PAPER = {None: 82.3, 10: 52.8}  # UCF101, C3D of Sports-1M, fc6: mean of the three splits, by the values kept by PCA


def extract(args: argparse.Namespace, runs: Path, datasets: dict[str, dict]) -> int:
    """python features.py extract: writes a feature for each video. Returns the exit status."""
    extractor, settings, split = load_extractor(args, runs)
    if args.dataset:
        frame_set = open_dataset(args.dataset, extractor.spec, val="none", datasets=datasets, frames=args.frames)
        trained_on = (settings["trained_on"] or {}).get("dataset")
        same_data = trained_on in (args.dataset, str(Path(args.dataset).expanduser().resolve()))
        entries = entries_of_frames(frame_set, split, same_data)
        settings |= {"dataset": frame_set.source.name, "classes": frame_set.classes}
        writer = FeatureWriter(args.output, settings, entries, whole=True)
        watch = progress_of("batches")
        extract_data_set(extractor, frame_set, entries, writer, args.step, args.batch_size, args.workers, watch)
        refused = []
    else:
        found = find_sources(args.sources)
        if found.live:
            raise UsageError(f"{found.live} is a camera or a stream. Features need finite videos.")
        videos = [(path, entry_of(path, relative)) for path, relative in found.videos]
        entries = [entry for _, entry in videos]
        writer = FeatureWriter(args.output, settings | {"dataset": None, "classes": None}, entries)
        refused = extract_videos(
            extractor, videos, writer, args.step, args.batch_size, args.workers, progress_of("videos")
        )
    writer.finish()
    for error in refused:
        print(error, file=sys.stderr)
    good = sum("file" in entry for entry in writer.done.values())
    problems = f", {plural(len(refused), 'video')} could not be used" if refused else ""
    print(f"{plural(good, 'feature')} of layer {args.layer} in {relative_to_cwd(args.output)}{problems}")
    return 1 if refused else 0


def load_extractor(
    args: argparse.Namespace, runs: Path, layer: str | None = None, **overrides: object
) -> tuple[FeatureExtractor, dict, dict]:
    """The network that the command line names, the settings for the index, and the split of a checkpoint, {} for other
    weights; overrides: settings given otherwise."""
    layer = layer or args.layer
    trained_on, split = None, {}
    if args.checkpoint:
        trained = load_model(find_checkpoint(args.checkpoint, runs))
        model, spec, name, weights = trained.model, trained.input_spec, trained.name, str(args.checkpoint)
        split = trained.checkpoint.get("split") or {}
        groups = {*split.get("training_groups", []), *split.get("validation_groups", []), *split.get("seen_groups", [])}
        trained_on = {"dataset": trained.checkpoint["config"].get("dataset"), "split": split.get("name")}
        trained_on["groups"] = sorted(groups)
        pretraining = None
    else:
        model, spec = build_trunk(args.model, args.weights, layer)
        name, weights = args.model, str(args.weights)
        pretraining = pretraining_of({"weights": args.weights})
    device = pick_device(args.device)
    precision = pick_precision(args.amp, device)
    settings = {
        "format": FORMAT,
        "model": name,
        "weights": weights,
        "weights_hash": weights_hash(model),
        "pretraining": pretraining,
        "trained_on": trained_on,
        "layer": layer,
        "step": getattr(args, "step", STEP),
        "pooling": getattr(args, "pooling", "mean"),
        "norm": getattr(args, "norm", "after"),
        "per_window": getattr(args, "per_window", False),
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "input_spec": spec.to_dict(),
    } | overrides
    model = to_device(model.eval(), device)
    extractor = FeatureExtractor(
        LowPrecisionModel(model, lambda model: layer_reader(model, layer), device, precision, features_differ),
        spec,
        device,
        settings["pooling"],
        settings["norm"],
        settings["per_window"],
    )
    return extractor, settings, split


def build_trunk(model_name: str, weights: str, layer: str) -> tuple[VideoModel, InputSpec]:
    """A network with weights from elsewhere, and its input. Its classes need no names here, and the last
    layer is needed for "prob" alone. Raises UserError where a parameter of the others is missing."""
    loaded = read_weights(weights, model_name)
    with torch.device("meta"):  # its names alone
        head = create_model(model_name, 1).head_name
    kept = loaded.state.get(f"{head}.weight")
    if layer == "prob" and kept is None:
        raise UserError(
            f"{loaded.origin} has no last layer ({head}), so it has no probabilities. Choose another layer."
        )
    model = create_model(model_name, 1 if kept is None else len(kept), **loaded.options)
    report = load_into(model, loaded)
    missing = [name for name in report.reinitialised if not name.endswith("num_batches_tracked")]
    missing = [name for name in missing if layer == "prob" or not name.startswith(f"{head}.")]
    if missing:
        raise UserError(f"{loaded.origin} has no {missing[0]} of {model_name}: features would be random.")
    return model, loaded.input_spec or input_spec(model_name)


def entry_of(path: Path, relative: Path) -> FeatureEntry:
    """The entry of a video file, whose feature is written to <folder of the video>/<video>.npy."""
    label = relative.parent.name or path.absolute().parent.name
    name = relative if relative.parent.name else Path(label) / relative
    return FeatureEntry(str(name), label, "", f"{label}/{path.stem}.npy", content=f"{file_size(path)} bytes")


def progress_of(unit: str) -> Callable[[Iterable, int], Iterator]:
    """A progress bar over batches or videos."""

    def watched(items: Iterable, total: int) -> Iterator:
        return progress(items, total, "Extracting", unit)

    return watched


def svm(args: argparse.Namespace, runs: Path, datasets: dict[str, dict]) -> int:
    """python features.py svm: trains and tests a linear SVM. Returns the exit status."""
    source = find_source(args.dataset, datasets, ROOT) if args.dataset else None
    data = open_features(args.features, source)
    output = args.output or args.features[0] / "svm"
    check_writable(output / "svm.json")
    splits = SPLIT_NUMBERS if args.split == "all" else (args.split,)
    dims = [None, *sorted(set(args.pca))]
    num_videos, num_classes = plural(len(data.videos), "feature"), plural(len(data.classes), "class")
    print(f"{num_videos} of {data.features.shape[1]} values, {num_classes}")
    outcomes: list[Outcome] = []
    leaks = []
    for split in splits:
        leaks += seen_in_training(data, split)
        if leaks and not args.allow_leak:
            raise UserError(f"{leaks[0][0].upper()}{leaks[0][1:]}: the accuracy would be meaningless (--allow-leak).")
        outcomes += run_split(data, split, dims, None if args.search_c else args.c)
    write_results(output, data, outcomes, leaks)
    print_outcomes(data, outcomes, dims, leaks)
    print(f"Classifiers, tables and pictures: {relative_to_cwd(output)}/")
    return 0


def print_outcomes(data: FeatureSet, outcomes: Sequence[Outcome], dims: Sequence[int | None], leaks: list[str]) -> None:
    for number in dims:
        found = [outcome for outcome in outcomes if outcome.dims == number]
        values = f"PCA {number}" if number else "all values"
        for outcome in found:
            low_high = outcome.interval
            interval = f"  [{low_high[0]:.1f}, {low_high[1]:.1f}]" if low_high else ""
            tested = plural(len(outcome.labels), "video")
            print(f"  {values:10}  split {outcome.split}: {outcome.accuracy:6.2f} %{interval} of {tested}")
        if len(found) > 1:
            mean, deviation = mean_and_deviation([outcome.accuracy for outcome in found])
            print(f"  {values:10}  mean of {len(found)}: {mean:5.2f} +- {deviation:.2f} %{paper_beside(data, number)}")
    for leak in sorted(set(leaks)):
        print(f"  LEAK: {leak}")


def paper_beside(data: FeatureSet, number: int | None) -> str:
    """The published accuracy, where this is the same experiment."""
    same = all(
        (s.get("model"), s.get("layer"), s.get("pretraining")) == ("c3d", "fc6", "sports1m") for s in data.settings
    )
    if not (is_whole_ucf101(data) and same and len(data.settings) == 1 and number in PAPER):
        return ""
    return f"   (Tran et al. 2015: {PAPER[number]})"


def write_results(output: Path, data: FeatureSet, outcomes: Sequence[Outcome], leaks: list[str]) -> None:
    table = []
    for outcome in outcomes:
        stem = f"split{outcome.split}" + (f"-pca{outcome.dims}" if outcome.dims else "")
        save_svm(output / f"{stem}.npz", outcome.svm, {"folders": data.settings, "split": outcome.split})
        write_atomically(output / f"{stem}-per_class.csv", outcome.per_class_csv())
        write_atomically(output / f"{stem}-confusion.csv", confusion_csv(outcome.matrix(), data.classes))
        title = f"Linear SVM, split {outcome.split}: {outcome.accuracy:.1f} %"
        save_picture(output / f"{stem}-confusion.png", draw_confusion(outcome.matrix(), data.classes, title))
        interval = outcome.interval
        table.append(
            {
                "split": outcome.split,
                "pca": outcome.dims,
                "c": outcome.svm.c,
                "top1": outcome.accuracy,
                "interval": interval and list(interval),
                "num_videos": len(outcome.labels),
            }
        )
    content = {"results": table, "leak": sorted(set(leaks)), "features": data.settings}
    write_atomically(output / "svm.json", json.dumps(content, indent=2) + "\n")


def predict(args: argparse.Namespace, runs: Path, datasets: dict[str, dict]) -> int:
    """python features.py predict: prints the labels of videos. Returns the exit status."""
    classifier, trained = load_svm(args.svm)
    folders = trained["folders"]
    if len(folders) != 1 or not folders[0]:
        why = "made elsewhere" if len(folders) == 1 else f"of {len(folders)} networks side by side"
        raise UserError(f"{args.svm} was trained on features {why}, which predict cannot compute for a video.")
    made_with = {key: folders[0][key] for key in ("step", "pooling", "norm", "per_window")}
    extractor, settings, _ = load_extractor(args, runs, folders[0]["layer"], **made_with)
    for key in ("weights_hash", "input_spec"):
        if settings[key] != folders[0][key]:
            raise UserError(
                f"{args.svm} was trained on features of {folders[0]['model']} with {folders[0]['weights']}, not of "
                "this network. Give that network."
            )
    sources = find_sources(args.videos)
    if sources.live:
        raise UsageError(f"{printable(sources.live)} is a camera or a stream. Features need finite videos.")
    failed = 0
    for video, _ in sources.videos:
        try:
            feature = extractor.video(video, made_with["step"], args.batch_size)
            feature = feature if feature.ndim == 1 else pool_windows(feature)  # as the SVM's were
            margins = classifier.margins(feature[None])[0]
            best = ", ".join(
                f"{printable(label)} {margin:+.2f}"
                for label, margin in likeliest(classifier.classes, margins, args.top)
            )
            print(f"{relative_to_cwd(video)}: {best}", flush=True)
        except UserError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 1 if failed else 0
