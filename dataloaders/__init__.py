"""Videos on disk -> frames on disk -> clips in batches. What needs no torch loads no torch: see build_loaders."""


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
    """-> (train, val): loader of random training clips (clips (B, T, S, S, 3) uint8, labels (B,), mirrored (B,)), and
    loader of validation videos (clips (B, N, T, S, S, 3) uint8, labels (B,), positions (B,)), None without any.

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
