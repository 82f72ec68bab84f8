"""Whether a checkpoint has seen what it is to be tested on."""

from dataloaders.frame_set import FrameSet
from dataloaders.sources.data_source import DataSource


def knows_its_training(checkpoint: dict) -> bool:
    return bool((checkpoint.get("split") or {}).get("training_groups"))


def names_recordings(source: DataSource) -> bool:
    """Whether a video's name tells its recording; otherwise each video counts as a recording, by its name."""
    return source.kind.same_groups or source.groups is not None


def find_leak(checkpoint: dict, frame_set: FrameSet, part: str, same_data: bool) -> str | None:
    """Why the accuracy on `part` would mean nothing, in a sentence; None where nothing speaks against it.

    For the test list, what training has seen, what validation has chosen by, and what the weights to begin with had
    seen must all be other recordings; for "val", the training. same_data: the checkpoint was trained on this data set,
    or on one with the same names; elsewhere equal names mean nothing.
    """
    seen = checkpoint.get("split") or {}
    if not same_data and not frame_set.source.kind.same_groups:
        return None
    tested, name = {row.group for row in frame_set.part(part)}, frame_set.split.name
    of_run = set(seen.get("training_groups", []))
    if part == "test":
        of_run |= set(seen.get("validation_groups", []))
    shared = sorted(tested & of_run)
    if shared and frame_set.split.hash == seen.get("hash"):
        if not names_recordings(frame_set.source):
            return None  # train/walk/001.avi and test/walk/001.avi may well be two recordings
        return (
            f"split {name} of {frame_set.source.name} has {len(shared)} of its {len(tested)} {part} recordings in "
            f"training or validation too (first: {shared[0]})"
        )
    if part == "test":
        shared = sorted(tested & (of_run | set(seen.get("seen_groups", []))))
    if shared:
        return (
            f"this checkpoint has seen {len(shared)} of the recordings that split {name} has for {part} "
            f"(first: {shared[0]})"
        )
    return None
