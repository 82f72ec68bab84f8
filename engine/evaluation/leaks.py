"""Whether a checkpoint has seen the videos or recordings that it is to be tested on."""

from dataloaders.frame_set import FrameSet
from dataloaders.frames.manifest import VideoRow
from dataloaders.sources.data_source import DataSource


def knows_its_training(checkpoint: dict) -> bool:
    return bool((checkpoint.get("split") or {}).get("training_groups"))


def what_is_unknown(checkpoint: dict) -> str:
    """A note on what cannot be compared, since the checkpoint does not hold it; "" where it holds all."""
    if not knows_its_training(checkpoint):
        return "Note: the checkpoint has no list of its training videos, so an overlap cannot be detected."
    if "training_content" not in checkpoint["split"]:
        return (
            "Note: this checkpoint is of an earlier version, with names of recordings instead of training videos: an "
            "overlap is detected by those names only."
        )
    return ""


def names_recordings(source: DataSource) -> bool:
    """Whether a video's name tells its recording; otherwise each video counts as a recording, by its name."""
    return source.kind.same_groups or source.groups is not None


def find_leak(checkpoint: dict, frame_set: FrameSet, part: str, same_data: bool) -> str | None:
    """Why the accuracy on `part` would mean nothing, in a sentence; None where nothing speaks against it.

    For the test list and for "all", what training has seen, what validation has chosen by, and what the weights to
    begin with had seen must all be other videos of other recordings; for "val", the training. Videos are compared by
    their content, so that neither another folder nor other groups in mypath.py hide one. same_data: the checkpoint was
    trained on this data set, or on one with the same names; elsewhere equal names mean nothing.
    """
    seen = checkpoint.get("split") or {}
    parts = ("training",) if part == "val" else ("training", "validation")
    of_run = _all_of(seen, parts, "groups")
    tested, name = {row.group for row in frame_set.part(part)}, frame_set.split.name
    own_split = part != "all" and frame_set.split.hash == seen.get("hash")
    if own_split and (shared := sorted(tested & of_run)):
        if not names_recordings(frame_set.source):
            return None  # train/walk/001.avi and test/walk/001.avi may well be two recordings
        return (
            f"split {name} of {frame_set.source.name} has {len(shared)} of its {len(tested)} {part} recordings in "
            f"training or validation too (first: {shared[0]})"
        )
    if same_data or frame_set.source.kind.same_groups:
        of_weights = set() if part == "val" else set(seen.get("seen_groups", []))
        if shared := sorted(tested & (of_run | of_weights)):
            return (
                f"this checkpoint has seen {len(shared)} of the recordings that split {name} has for {part} "
                f"(first: {shared[0]})"
            )
    # its own split keeps a run's videos apart, but for copies that official lists have in both parts; the weights that
    # the run began with may have seen others
    excused = _all_of(seen, parts, "content") if own_split else set()
    parts = (() if own_split else parts) + (() if part == "val" else ("seen",))
    if videos := _seen_videos(seen, parts, excused, frame_set, part, same_data):
        return (
            f"this checkpoint was trained or chosen on {len(videos)} of the {len(frame_set.part(part))} videos that "
            f"split {name} has for {part} (first: {videos[0]})"
        )
    return None


def changed_training(checkpoint: dict, frame_set: FrameSet) -> list[VideoRow]:
    """Training videos of its own split whose frames are others than those that the checkpoint was trained on, of some
    two hundred."""
    known = (checkpoint.get("split") or {}).get("training_content", [])
    return frame_set.changed(frame_set.part("train"), known, most=200)


def copies_of_training(checkpoint: dict, frame_set: FrameSet, part: str) -> list[str]:
    """Videos of `part` with the content of a training video."""
    seen, rows = _all_of(checkpoint.get("split") or {}, ("training",), "content"), frame_set.part(part)
    ids = frame_set.content_ids(rows) if seen else []
    return [row.video for row, own in zip(rows, ids, strict=False) if own in seen]


def _seen_videos(
    seen: dict, parts: tuple[str, ...], excused: set[str], frame_set: FrameSet, part: str, same_data: bool
) -> list[str]:
    rows, content = frame_set.part(part), _all_of(seen, parts, "content") - excused
    names = _all_of(seen, parts, "videos") if same_data else set()
    ids = frame_set.content_ids(rows) if content else [""] * len(rows)
    return [row.video for row, own in zip(rows, ids, strict=True) if row.video in names or own in content]


def _all_of(seen: dict, parts: tuple[str, ...], kind: str) -> set[str]:
    return {value for part in parts for value in seen.get(f"{part}_{kind}", [])}
