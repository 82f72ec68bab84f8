"""From videos on disk to batches of clips. Functions import what needs torch when they are called.

sources        data sets as their owners have them
preprocess     videos -> JPEG frames
frames         frames on disk
audit          checks of a data set
download       UCF101 and HMDB51
video          the only reader of video files
frame_set      a data set whose frames are ready to be read
clips          frames of a clip: integers in, integers out
crops          squares of frames: integers in, integers out
dataset        clips for training, evaluation and windows
batch_sampler  positions of each batch and rank
loader         loaders for one pass, or for all passes of a run
batch_reader   worker processes that read and decode batches
prefetch       batches copied to the GPU ahead of time
transforms     uint8 clips -> network input, on the device
augment        random colours and zoom, on the device
mixup          mixup and cutmix, on the device
pack           `python -m dataloaders.pack`: frames in a few large files
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from common.files import ROOT
from dataloaders.sources.data_source import DRAWING

if TYPE_CHECKING:
    from common.input_spec import InputSpec
    from dataloaders.frame_set import FrameSet


def open_dataset(
    name: str,
    spec: "InputSpec",
    split: str | None = None,
    val: str = "auto",
    *,
    datasets: dict[str, dict],
    frames: str | None = None,
    any_aspect: bool = False,
    extract: bool = True,
    drawing: int = DRAWING,
    check: Callable[[list[str], str], None] | None = None,
) -> "FrameSet":
    """Finds a data set, extracts the frames that are missing, and opens it.

    name        of an entry in `datasets` (mypath.DATASETS), a folder of class folders, or a list of videos
    frames      folder of the frames, where it is not the entry's own
    any_aspect  frames that keep their aspect are fine too, for a network that is still to be trained
    extract     False: a UserError where frames are missing
    drawing     of random splits and of recordings from names: a checkpoint's own (see DataSource)
    check       called with the classes and the data set's name before anything is extracted, and when it is open
    """
    from dataloaders.frame_set import open_frames
    from dataloaders.preprocess.ensure import ensure_frames
    from dataloaders.sources.find import find_source

    source = replace(find_source(name, datasets, ROOT, frames), drawing=drawing)
    if extract:
        ensure_frames(source, spec.resize, split, check)
    frame_set = open_frames(source, spec, split, val, any_aspect)
    if check:
        check(frame_set.classes, source.name)
    return frame_set


def build_loaders(
    frame_set,
    spec,
    *,
    batch_size,
    accumulate=1,
    rank=0,
    processes=1,
    val_clips=3,
    flip=False,
    seed=0,
    num_workers=2,
    pin_memory=False,
    cache=None,
    clips_per_video=1,
    stride_jitter=0.0,
):
    """Returns (train, val): a loader of random training clips (clips (B, T, S, S, 3) uint8, labels (B,), mirrored
    (B,)), and one of validation videos (clips (B, N, T, S, S, 3) uint8, labels (B,), positions (B,)), None without any.

    Each is the share of process `rank`; train.batch_sampler says which batches make a step. cache="ram" keeps
    frames as they were decoded; dataset.check_cache_memory says beforehand whether there is room.
    """
    from dataloaders.batch_sampler import EvalBatchSampler, TrainBatchSampler
    from dataloaders.dataset import EvalDataset, TrainDataset
    from dataloaders.loader import ClipLoader

    train = TrainDataset(frame_set, spec, flip, seed, clips_per_video=clips_per_video, stride_jitter=stride_jitter)
    val = EvalDataset(frame_set, spec, part="val", num_clips=val_clips)
    if cache == "ram":
        train.keep_decoded()
        val.keep_decoded()
    options = {"num_workers": num_workers, "pin_memory": pin_memory}
    videos_at_once = max(batch_size // val_clips, 1)
    train_sampler = TrainBatchSampler(len(train), batch_size, accumulate, rank, processes)
    val_sampler = EvalBatchSampler(len(val), videos_at_once, rank, processes)
    return (
        ClipLoader(train, batch_size, **options, batch_sampler=train_sampler),
        ClipLoader(val, videos_at_once, **options, batch_sampler=val_sampler) if len(val) else None,
    )
