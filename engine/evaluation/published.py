"""Published accuracies, printed beside a result where the measurement is the same."""

import re
from dataclasses import dataclass

from dataloaders.frame_set import FrameSet


@dataclass(frozen=True)
class Published:
    """One number from a paper or a public model collection, in percent.

    split        "1", "2", "3", or "mean" of the three
    pretraining  "scratch", or what the weights to begin with were trained on
    metric       "top1" and "top5" of videos, or "clip_top1": the names of test.json
    """

    dataset: str
    split: str
    model: str
    pretraining: str
    metric: str
    value: float
    protocol: str
    source: str


# Numbers whose source could not be looked into, and those of networks that differ from ours, are not here.
RESULTS = (
    Published("UCF101", "1", "r3d_18", "scratch", "top1", 42.4, "clips of 16 frames, averaged", "Hara 2018"),
    Published("UCF101", "1", "c3d", "sports1m", "top1", 83.08, "10 clips x 1 crop", "mmaction2 1.x"),
    Published("UCF101", "1", "c3d", "sports1m", "top5", 95.93, "10 clips x 1 crop", "mmaction2 1.x"),
    Published("UCF101", "1", "c3d", "sports1m", "clip_top1", 80.19, "windows of 16, 16 apart", "C3D user guide"),
    Published("UCF101", "mean", "r2plus1d_34", "kinetics400", "top1", 96.8, "32 frames, RGB", "Tran 2018"),
    Published("HMDB51", "mean", "r2plus1d_34", "kinetics400", "top1", 74.5, "32 frames, RGB", "Tran 2018"),
)

# official name -> number of classes, test videos of each split
DATASETS = {"UCF101": (101, {"1": 3783, "2": 3734, "3": 3696}), "HMDB51": (51, {"1": 1530, "2": 1530, "3": 1530})}
MAY_LACK = 0.01  # of the test videos: some copies have a few that cannot be read
METRICS = {"top1": "video top-1", "top5": "video top-5", "clip_top1": "clip top-1"}


def official_name(frame_set: FrameSet) -> str | None:
    """UCF101 or HMDB51, where all its classes and nearly all test videos of an official split are present; None for a
    selection of classes and for other videos named alike."""
    for name, (num_classes, tested) in DATASETS.items():
        wanted = tested.get(frame_set.split.name)
        if frame_set.source.layout == name.lower() and len(frame_set.classes) == num_classes and wanted:
            return name if (1 - MAY_LACK) * wanted <= len(frame_set.part("test")) <= wanted else None
    return None


def pretraining_of(config: dict) -> str | None:
    """What a run's weights had been trained on before: "scratch", "kinetics400", "sports1m", "imagenet"; None where it
    cannot be told, and where part of the network was kept as it was, which is another experiment."""
    if config.get("freeze", "none") != "none":
        return None
    weights = config.get("weights")
    if weights is None:
        return "scratch"
    name = re.sub(r"[^a-z0-9]", "", re.split(r"[/\\]", str(weights))[-1].lower())
    told = {found for found, pattern in PRETRAINING.items() if re.search(pattern, name)}
    return told.pop() if len(told) == 1 else None


PRETRAINING = {
    "kinetics400": r"kinetics400|k400",
    "sports1m": r"sports?1m",
    "imagenet": r"imagenet",
    "other": r"finetune|ig65m|kinetics[67]00",
}


def published(dataset: str | None, split: str, model: str, pretraining: str | None) -> list[Published]:
    """Published results for exactly this data set, split, model and pretraining; often none."""
    wanted = (dataset, split, model, pretraining)
    return [row for row in RESULTS if (row.dataset, row.split, row.model, row.pretraining) == wanted]


def beside(row: Published, accuracies: dict[str, float]) -> str:
    """UCF101 split 1, r3d_18 from scratch: video top-1 42.4 (Hara 2018: ...), yours 44.1"""
    split = "mean of three splits" if row.split == "mean" else f"split {row.split}"
    return (
        f"{row.dataset} {split}, {row.model} from {row.pretraining}: {METRICS[row.metric]} {row.value:g} "
        f"({row.source}: {row.protocol}), yours {accuracies[row.metric]:.1f}"
    )
