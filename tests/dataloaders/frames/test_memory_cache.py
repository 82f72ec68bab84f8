"""--cache ram: the same clips, no frame decoded twice, and a word on memory before any is taken."""

import os
from collections import Counter

import cv2
import numpy as np
import pytest

import train
from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders import build_loaders
from dataloaders import dataset as dataset_module
from dataloaders.dataset import EvalDataset, TrainDataset
from dataloaders.frame_set import FrameSet, check_cache_memory, open_frames
from dataloaders.frames import memory_cache, store
from dataloaders.frames.memory_cache import FrameCache, free_memory
from dataloaders.loader import ClipLoader
from dataloaders.sources.data_source import DataSource
from engine.training.config import TrainConfig
from tests.helpers.toy import TOY_SIZE, frame_naming
from tests.helpers.training import TINY, assert_equal_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = InputSpec(clip_len=8, frame_stride=2, resize=TOY_SIZE, crop_size=48)


@pytest.fixture(scope="session")
def toy_set(toy_source, toy_frames) -> FrameSet:
    return open_frames(toy_source, SPEC)


def samples(dataset, workers: int, epochs: int) -> list[np.ndarray]:
    loader = ClipLoader(dataset, 5, workers)
    return [part.numpy() for epoch in range(epochs) for batch in loader.batches(epoch) for part in batch]


@pytest.mark.parametrize("workers", [0, 4])
def test_cached_clips_are_the_same_and_no_frame_is_decoded_twice(toy_set, monkeypatch, tmp_path, workers):
    """Worker processes share the cache: what one has decoded, no other decodes in a later pass."""
    plain = [TrainDataset(toy_set, SPEC, flip=True), EvalDataset(toy_set, SPEC, "val", num_clips=3, crops=3)]
    expected = [samples(dataset, 0, 4) for dataset in plain]
    log, inside = tmp_path / "decoded.txt", store.read_file

    def read_file(path, row) -> bytes:
        with log.open("a") as file:  # one write each, by whichever process
            file.write(f"{path}\n")
        return inside(path, row)

    monkeypatch.setattr(store, "read_file", read_file)
    for dataset, expected_samples in zip(plain, expected, strict=True):
        dataset.keep_decoded()
        got = samples(dataset, workers, 4)
        assert all(np.array_equal(*pair) for pair in zip(got, expected_samples, strict=True))

    decoded = Counter(log.read_text().split("\n")[:-1])
    assert len(decoded) <= 18 * 20
    if workers:  # two that want one frame at the same moment decode it both
        assert decoded.total() < 1.1 * len(decoded)
    else:
        assert set(decoded.values()) == {1}
    samples(plain[1], workers, 1)
    assert len(log.read_text().split("\n")[:-1]) == decoded.total(), "the second validation reads nothing"


def test_frames_of_many_sizes_stay_apart(tmp_path):
    for clip, size in ((1, (100, 75)), (2, (64, 48))):
        folder = tmp_path / "frames" / "run" / f"take{clip}"
        folder.mkdir(parents=True)
        for index in range(7 + clip):
            cv2.imwrite(str(folder / f"{index + 1}.jpg"), frame_naming(index, size=size)[..., ::-1])
    source = DataSource("mine", tmp_path / "videos", tmp_path / "frames", frames_given=True)
    frame_set = open_frames(source, SPEC, "random", val="none")
    plain, cached = TrainDataset(frame_set, SPEC), TrainDataset(frame_set, SPEC)
    cached.keep_decoded()

    pairs = zip(samples(plain, 0, 3), samples(cached, 2, 3), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_each_frame_has_its_own_place(toy_set):
    rows = toy_set.rows[:3]
    sizes = [(7, 5), (4, 3), (6, 8)]
    cache = FrameCache(rows, sizes)
    pictures = {}
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        assert cache.missing(number, [0, 3, 19]) == [0, 3, 19]
        for index in range(20):
            pictures[number, index] = rng.integers(0, 256, (height, width, 3), np.uint8)
            cache.put(number, index, pictures[number, index])

    assert all(np.array_equal(cache.get(*place), picture) for place, picture in pictures.items())
    assert [cache.missing(number, range(20)) for number in range(3)] == [[], [], []]


def test_a_damaged_frame_is_an_error_each_time_it_is_asked_for(toy_set, monkeypatch):
    """Trap 12: unreadable samples replaced by others."""
    dataset = EvalDataset(toy_set, SPEC, "val", num_clips=1)
    dataset.keep_decoded()
    out = np.empty(dataset.clip_shape, np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_file", lambda path, row: b"\xff\xd8 no picture")
        for _ in range(2):
            with pytest.raises(UserError, match="The frame .* is damaged"):
                dataset.load(0, 0, out)
    dataset.load(0, 0, out)
    plain = np.empty(dataset.clip_shape, np.uint8)
    EvalDataset(toy_set, SPEC, "val", num_clips=1).load(0, 0, plain)
    assert np.array_equal(out, plain)


def test_training_and_validation_share_the_flag(toy_set):
    train_loader, val_loader = build_loaders(toy_set, SPEC, batch_size=4, num_workers=0, cache="ram")
    assert train_loader.dataset.cache is not None and val_loader.dataset.cache is not None
    train_loader, val_loader = build_loaders(toy_set, SPEC, batch_size=4, num_workers=0, cache="none")
    assert train_loader.dataset.cache is None and val_loader.dataset.cache is None


def test_what_the_cache_will_take_is_said_first_and_refused_where_it_is_too_much(toy_set, monkeypatch, capsys):
    monkeypatch.setattr(memory_cache, "free_memory", lambda: 1e9 + 6e6)
    check_cache_memory(toy_set, SPEC)  # 18 videos x 20 frames x 14,400 bytes
    assert "--cache ram needs 5 MB of memory for 360 decoded frames; 1.0 GB are free." in capsys.readouterr().out

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(
        UserError, match="needs 10 MB of memory for 360 decoded frames in each of 2 processes; 1.0 GB are"
    ):
        check_cache_memory(toy_set, SPEC)


def test_free_memory_is_a_number_below_what_the_machine_has():
    free = free_memory()
    assert free is None or 1e6 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_containers_limit_counts(tmp_path):
    assert memory_cache._container_memory(tmp_path) == []
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_cache._container_memory(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory_cache._container_memory(tmp_path) == [450]


def test_the_groups_of_a_job_count_up_to_the_root(tmp_path):
    groups = memory_cache._control_groups(tmp_path)

    assert groups[-1] == tmp_path and len(set(groups)) == len(groups)
    assert all(group == tmp_path or tmp_path in group.parents for group in groups)


def test_a_run_with_the_cache_learns_the_same_weights_bit_for_bit(toy_project, monkeypatch, capsys):
    settings = TINY | {"epochs": 1, "workers": 0}
    plain = train.main(TrainConfig(**settings))
    capsys.readouterr()
    kept = []
    inside = dataset_module.ClipSource.keep_decoded
    monkeypatch.setattr(dataset_module.ClipSource, "keep_decoded", lambda self: kept.append(self) or inside(self))
    cached = train.main(TrainConfig(**settings, cache="ram"))

    assert len(kept) == 2 and "--cache ram needs 5 MB" in capsys.readouterr().out
    assert_equal_weights(plain / "last.pth", cached / "last.pth")

    monkeypatch.setattr(memory_cache, "free_memory", lambda: 1e9)
    with pytest.raises(UserError, match="--cache ram needs"):
        train.main(TrainConfig(resume=str(cached), epochs=2))
    train.main(TrainConfig(resume=str(cached), epochs=2, cache="none"))
