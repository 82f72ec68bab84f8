import pickle
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import ROOT
from common.input_spec import InputSpec
from dataloaders import build_loaders
from dataloaders.crops import random_crop_offset
from dataloaders.dataset import EvalDataset, TrainDataset
from dataloaders.frame_set import FrameSet, open_frames
from dataloaders.frames import manifest, store
from dataloaders.loader import ClipLoader
from dataloaders.preprocess.run import Settings, preprocess
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import find_source, with_frames
from dataloaders.transforms import to_model_input
from engine.training.checks import check_parts
from tests.helpers.toy import CLASSES, NUM_NAMES, TOY_SIZE, frame_naming, frames_of, read_naming, write_naming_video

SPEC = InputSpec(clip_len=8, frame_stride=2, resize=TOY_SIZE, crop_size=48)  # span 15 of 20 frames


@pytest.fixture(scope="session")
def toy_set(toy_source, toy_frames) -> FrameSet:
    return open_frames(toy_source, SPEC)


@pytest.fixture
def own_set(toy_source, toy_frames, tmp_path) -> FrameSet:
    """The toy frames in a folder of the test's own."""
    shutil.copytree(toy_frames, tmp_path / "frames")
    return open_frames(with_frames(toy_source, str(tmp_path / "frames")), SPEC)


@pytest.fixture
def lengths(tmp_path) -> DataSource:
    """One class of videos of 2, 5, 14, 15, 16 and 40 frames, all in training."""
    for number in (2, 5, 14, 15, 16, 40):
        write_naming_video(tmp_path / "videos" / "train" / "run" / f"{number:02d}.avi", number)
    source = find_source(str(tmp_path / "videos"), {}, ROOT)
    preprocess(source, Settings(TOY_SIZE))
    return source


def load(dataset, position: int, epoch: int = 0) -> tuple[np.ndarray, int, int]:
    out = np.empty(dataset.clip_shape, np.uint8)
    label, extra = dataset.load(epoch, position, out)
    return out, label, extra


def all_batches(dataset, workers: int, epoch: int = 0) -> list[torch.Tensor]:
    parts = zip(*ClipLoader(dataset, 5, workers).batches(epoch), strict=True)
    return [torch.cat(part) for part in parts]


def test_ids_are_the_data_sets_own_and_parts_those_of_the_split(toy_set):
    """Trap 7: class ids from whatever folders a split holds; ASCII sorting swaps Hammering and HammerThrow."""
    assert toy_set.classes == list(CLASSES) != sorted(CLASSES)
    assert {part: len(toy_set.part(part)) for part in ("train", "val", "test")} == {"train": 12, "val": 6, "test": 6}
    for part in ("train", "val", "test"):
        dataset = EvalDataset(toy_set, SPEC, part, num_clips=1)
        for position in range(len(dataset)):
            clips, label, same_position = load(dataset, position)
            assert read_naming(clips[0, 0]).label == label  # the picture says what class it is
            assert same_position == position


def test_a_class_without_training_videos_keeps_the_ids_of_the_others(own_set):
    """Trap 7: a class missing in one split shifts all later ids."""
    rows = manifest.read_manifest(own_set.frames)
    gone = [replace(row, status="refused", reason="x") if row.label == "Hammering" else row for row in rows]
    manifest.write_manifest(own_set.frames, gone)
    opened = open_frames(own_set.source, SPEC)

    assert opened.classes == list(CLASSES)
    assert {row.label for row in opened.rows} == {"Biking", "HammerThrow"}
    assert set(TrainDataset(opened, SPEC).labels.tolist()) == {0, 2}


def test_training_clips_are_frames_in_order_at_their_stride_in_rgb_and_upright(toy_set):
    """Traps 1 and 6, and BGR: read_naming refuses exchanged channels."""
    dataset = TrainDataset(toy_set, SPEC)
    for epoch in range(3):
        for position in range(len(dataset)):
            clip, label, _ = load(dataset, position, epoch)
            names = [read_naming(frame) for frame in clip]
            start = names[0].frame
            assert [name.frame for name in names] == list(range(start, start + 16, 2))
            assert start <= 5
            assert {(name.label, name.mirrored, name.upside_down) for name in names} == {(label, False, False)}


def test_training_reaches_first_and_last_start_and_all_crops(toy_set):
    """Trap 5: never draws the last start."""
    dataset = TrainDataset(toy_set, replace(SPEC, crop_size=58))
    pictures = {row.video: next(toy_set.read_frames(row, [0])) for row in dataset.rows}
    starts, offsets = Counter(), Counter()
    for epoch in range(30):
        for position, number in enumerate(dataset.order(epoch)):
            clip, _, _ = load(dataset, position, epoch)
            start = read_naming(clip[0]).frame
            starts[start] += 1
            if start == 0:
                picture = pictures[dataset.rows[number].video]
                offsets.update(
                    (top, left)
                    for top in range(3)
                    for left in range(23)
                    if np.array_equal(picture[top : top + 58, left : left + 58], clip[0])
                )

    assert set(starts) == {0, 1, 2, 3, 4, 5} and min(starts.values()) > 30
    assert {top for top, _ in offsets} == {0, 1, 2}
    assert len({left for _, left in offsets}) > 12


def test_random_crops_reach_all_edges():
    rng = np.random.default_rng(0)
    offsets = [random_crop_offset(80, 60, 48, rng) for _ in range(2000)]

    assert {top for top, _ in offsets} == set(range(13))
    assert {left for _, left in offsets} == set(range(33))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_sample_depends_on_seed_epoch_and_position_only(toy_set, workers):
    dataset = TrainDataset(toy_set, SPEC, flip=True, seed=3)
    clips, labels, flips = all_batches(dataset, workers, epoch=2)

    for position in reversed(range(len(dataset))):  # in any order
        clip, label, flip = load(dataset, position, epoch=2)
        assert np.array_equal(clips[position].numpy(), clip)
        assert (int(labels[position]), int(flips[position])) == (label, flip)


def test_epochs_and_seeds_differ_and_every_video_comes_once_an_epoch(toy_set):
    dataset, other = TrainDataset(toy_set, SPEC, seed=0), TrainDataset(toy_set, SPEC, seed=1)
    orders = [tuple(dataset.order(epoch)) for epoch in range(4)] + [tuple(other.order(0))]

    assert len(set(orders)) == 5
    assert all(sorted(order) == list(range(12)) for order in orders)
    first = orders[0][0]
    again = next(epoch for epoch in range(1, 200) if dataset.order(epoch)[0] == first)
    assert not np.array_equal(load(dataset, 0, 0)[0], load(dataset, 0, again)[0])


def test_several_clips_of_each_video_come_in_an_epoch_each_from_its_own_place(toy_set):
    dataset = TrainDataset(toy_set, SPEC, clips_per_video=4)
    assert len(dataset) == 4 * 12
    assert Counter(dataset.order(3).tolist()) == dict.fromkeys(range(12), 4)
    starts = defaultdict(set)
    for position, number in enumerate(dataset.order(0)):
        clip, label, _ = load(dataset, position)
        assert read_naming(clip[0]).label == label
        starts[number].add((frames_of(clip)[0], int(clip[0, 0, 0, 1])))
    assert np.mean([len(places) for places in starts.values()]) > 2.5
    assert np.array_equal(TrainDataset(toy_set, SPEC).order(5), TrainDataset(toy_set, SPEC, clips_per_video=1).order(5))


def test_a_jittered_stride_differs_from_clip_to_clip_and_rises_evenly(toy_set):
    spec = replace(SPEC, clip_len=4, frame_stride=4)  # span 13 of 20 frames
    dataset = TrainDataset(toy_set, spec, stride_jitter=0.5)
    strides = []
    for position in range(len(dataset)):
        names = frames_of(load(dataset, position)[0])
        steps = np.diff(names)
        assert np.ptp(steps) <= 1 and steps.min() >= 2 and steps.max() <= 6, names
        strides.append(steps.mean())
    assert min(strides) < 3.5 and max(strides) > 4.5


def test_flip_is_drawn_in_training_only_and_only_where_it_is_set(toy_set):
    """Trap 3: flip done only for the test split, and twice, so never."""
    drawn = [
        load(TrainDataset(toy_set, SPEC, flip=True), position, epoch)[2]
        for epoch in range(10)
        for position in range(12)
    ]
    never = [
        load(TrainDataset(toy_set, SPEC, flip=False), position, epoch)[2]
        for epoch in range(2)
        for position in range(12)
    ]

    assert set(drawn) == {0, 1} and 40 < sum(drawn) < 80
    assert set(never) == {0}
    train, val = build_loaders(toy_set, SPEC, batch_size=4, flip=True, num_workers=0)
    assert train.dataset.flip and not hasattr(val.dataset, "flip")
    clips = torch.cat([batch[0] for batch in val]).flatten(0, 2)
    assert not any(read_naming(frame).mirrored for frame in clips.numpy())


def test_flip_turns_the_whole_clip(toy_set):
    spec = replace(SPEC, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    clips, _, flips = next(ClipLoader(TrainDataset(toy_set, SPEC, flip=True), 12, 0).batches(epoch=1))
    assert 0 < flips.sum() < 12

    x = to_model_input(clips, spec, flips.bool())  # (B, 3, T, S, S)

    assert x.shape == (12, 3, 8, 48, 48)
    for clip, before, flip in zip(x.permute(0, 2, 3, 4, 1).numpy(), clips.numpy(), flips.tolist(), strict=True):
        names = [read_naming(frame) for frame in clip]
        assert [name.mirrored for name in names] == [bool(flip)] * 8
        assert [name.frame for name in names] == frames_of(before)


def test_evaluation_is_deterministic_and_its_clips_are_evenly_spaced(toy_set):
    """Trap 4: random crop in time and space for validation and test; one clip; metric not repeatable."""
    dataset = EvalDataset(toy_set, SPEC, "test", num_clips=3)
    row = dataset.rows[2]

    clips, label, _ = load(dataset, 2)

    assert clips.shape == (3, 8, 48, 48, 3) and label == dataset.labels[2]
    assert [frames_of(clip) for clip in clips] == [list(range(start, start + 16, 2)) for start in (0, 2, 5)]
    centre = next(toy_set.read_frames(row, [5]))[6:54, 16:64]  # of 80x60
    assert np.array_equal(clips[2, 0], centre)
    for workers in (0, 1, 4):
        for epoch in (0, 7):
            assert torch.equal(all_batches(dataset, workers, epoch)[0][2], torch.from_numpy(clips))


def test_three_crops_lie_left_middle_and_right(toy_set):
    dataset = EvalDataset(toy_set, SPEC, "test", num_clips=2, crops=3)
    clips, _, _ = load(dataset, 0)
    picture = next(toy_set.read_frames(dataset.rows[0], [0]))

    assert dataset.clip_shape == clips.shape == (6, 8, 48, 48, 3)
    for view, left in enumerate((0, 16, 32)):
        assert np.array_equal(clips[view, 0], picture[6:54, left : left + 48])
    assert [frames_of(clip)[0] for clip in clips] == [0, 0, 0, 5, 5, 5]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("reversed", [14, 12, 10, 8, 6, 4, 2, 0]), ("frozen", [8] * 8), ("normal", [0, 2, 4, 6, 8, 10, 12, 14])],
)
def test_the_temporal_test_disturbs_the_order_and_nothing_else(toy_set, order, expected):
    clips, _, _ = load(EvalDataset(toy_set, SPEC, "test", num_clips=2, order=order), 0)

    assert frames_of(clips[0]) == expected


def test_shuffled_frames_are_the_same_frames_shuffled_the_same_way_each_time(toy_set):
    dataset = EvalDataset(toy_set, SPEC, "test", num_clips=2, order="shuffled")
    first, again = load(dataset, 0)[0], load(dataset, 0)[0]

    assert np.array_equal(first, again)
    assert sorted(frames_of(first[0])) == [0, 2, 4, 6, 8, 10, 12, 14] != frames_of(first[0])


def test_a_short_video_repeats_from_its_beginning_in_training_and_evaluation(lengths):
    """Trap 5: short videos crash or are dropped. The span is 15."""
    frame_set = open_frames(lengths, SPEC, val="none")
    train = TrainDataset(frame_set, SPEC)
    evaluation = EvalDataset(frame_set, SPEC, "train", num_clips=2)

    assert [row.num_frames for row in train.rows] == [2, 5, 14, 15, 16, 40]
    for position, number in enumerate(train.order(0)):
        num_frames = train.rows[number].num_frames
        names = frames_of(load(train, position)[0])
        start = names[0]
        assert names == [(start + 2 * k) % num_frames for k in range(8)]
        assert start <= max(num_frames - 15, 0)
    assert frames_of(load(evaluation, 1)[0][0]) == [0, 2, 4, 1, 3, 0, 2, 4]
    assert [frames_of(clip)[0] for clip in load(evaluation, 5)[0]] == [0, 25]


def test_only_the_frames_of_the_clip_are_read(toy_set, monkeypatch):
    """Trap 11: all frames of a video loaded to use 16."""
    read = []
    inside = store.read_file
    monkeypatch.setattr(store, "read_file", lambda path, row: read.append(path) or inside(path, row))

    load(TrainDataset(toy_set, SPEC), 0)

    assert len(read) == len(set(read)) == 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "size"])
def test_a_bad_frame_is_an_error_that_names_the_file_and_never_another_sample(own_set, damage, part, workers):
    """Trap 12: unreadable samples replaced by others, in validation too."""
    dataset = TrainDataset(own_set, SPEC) if part == "train" else EvalDataset(own_set, SPEC, "val", num_clips=2)
    row = dataset.rows[3]
    for number in range(1, 21):
        path = own_set.frames / row.folder / f"{number:05d}.jpg"
        content = path.read_bytes()
        path.unlink()
        if damage == "size":
            cv2.imwrite(str(path), np.zeros((50, 50, 3), np.uint8))
        elif damage != "missing":
            path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no picture"}[damage])

    with pytest.raises(UserError, match=f"The frame .*/{row.folder}/000[0-9]+.jpg is") as error:
        all_batches(dataset, workers)
    assert {"missing": "is missing", "size": "is 50x50, not 80x60"}.get(damage, "is damaged") in str(error.value)


def test_frames_of_another_size_tell_the_command(own_set):
    with pytest.raises(
        UserError, match="holds frames of 80x60; this model expects 171x128.*--size 171x128 --frames DIR"
    ):
        open_frames(own_set.source, InputSpec())


def test_missing_frames_tell_the_command(toy_source):
    with pytest.raises(UserError, match="There are no frames in .*-64x48. To extract: python -m .* --size 64x48"):
        open_frames(toy_source, replace(SPEC, resize=(64, 48), crop_size=32))


def test_an_interrupted_extraction_is_not_trained_on(own_set):
    """Trap 10: interrupted preprocessing taken for complete."""
    manifest.PartialManifest(own_set.frames, own_set.rows[:3]).close()

    with pytest.raises(UserError, match="The extraction into .* was interrupted. To extract: "):
        open_frames(own_set.source, SPEC)


def test_frames_made_elsewhere_are_adopted_and_resized(tmp_path):
    """Trap 1: unpadded names. The frames are of two sizes, neither of them the spec's."""
    for clip, size in ((1, (100, 75)), (2, (64, 48))):
        folder = tmp_path / "frames" / "run" / f"take.{clip}"
        folder.mkdir(parents=True)
        for index in range(20):
            cv2.imwrite(str(folder / f"0000{index}.jpg"), frame_naming(index, size=size)[..., ::-1])
    source = DataSource("mine", tmp_path / "videos", tmp_path / "frames", frames_given=True)

    frame_set = open_frames(source, SPEC, "random", val="none")
    dataset = EvalDataset(
        replace(frame_set, split=replace(frame_set.split, parts=dict.fromkeys(frame_set.split.parts, "val"))),
        SPEC,
        "val",
        num_clips=2,
    )

    assert len({row.group for row in frame_set.rows}) == 2
    for position in range(2):
        clips, _, _ = load(dataset, position)
        assert [frames_of(clip) for clip in clips] == [list(range(start, start + 16, 2)) for start in (0, 5)]
    assert manifest.is_complete(tmp_path / "frames")  # indexed once


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_a_bad_frame_made_elsewhere_is_not_to_be_preprocessed_again(tmp_path, damage):
    for name in ("run/a", "walk/b"):
        (tmp_path / name).mkdir(parents=True)
        for index in range(20):
            cv2.imwrite(str(tmp_path / name / f"{index}.jpg"), frame_naming(index)[..., ::-1])
    source = DataSource("mine", tmp_path, tmp_path, frames_given=True)
    frame_set = open_frames(source, SPEC, "random")
    (tmp_path / "run/a/7.jpg").unlink() if damage == "missing" else (tmp_path / "run/a/7.jpg").write_text("no picture")
    with pytest.raises(UserError, match="run/a/7.jpg is (missing|damaged).* Recreate the frames of its video") as error:
        list(frame_set.read_frames(frame_set.rows[0], [7]))
    assert "reprocess" not in str(error.value)

    shutil.rmtree(tmp_path / "run/a")  # as it says
    (tmp_path / manifest.NAME).unlink()
    (tmp_path / "run").rmdir()
    assert [row.video for row in open_frames(source, SPEC, "random").rows] == ["walk/b"]


def test_a_rate_that_nobody_knows_is_said_where_the_model_asks_for_one(tmp_path, toy_set, capsys):
    for name in ("run/a", "walk/b"):
        (tmp_path / name).mkdir(parents=True)
        for index in range(20):
            cv2.imwrite(str(tmp_path / name / f"{index}.jpg"), frame_naming(index)[..., ::-1])
    frame_set = open_frames(DataSource("mine", tmp_path, tmp_path, frames_given=True), SPEC, "random")
    check_parts(frame_set, replace(SPEC, fps=15.0))
    assert "expects 15 frames a second, and the frame rate of 2 videos is unknown" in capsys.readouterr().out

    check_parts(frame_set, SPEC)
    check_parts(toy_set, replace(SPEC, fps=15.0))
    assert "is unknown" not in capsys.readouterr().out


def test_frames_made_elsewhere_of_divided_folders_keep_equal_names_apart(tmp_path):
    for part in ("train", "test"):
        folder = tmp_path / "frames" / part / "run" / "001"
        folder.mkdir(parents=True)
        for index in range(4):
            cv2.imwrite(str(folder / f"{index + 1}.jpg"), frame_naming(index, size=TOY_SIZE)[..., ::-1])

    frame_set = open_frames(DataSource("mine", tmp_path, tmp_path / "frames", frames_given=True), SPEC)

    assert [row.folder for row in frame_set.part("train")] == ["train/run/001"]
    assert [row.folder for row in frame_set.part("test")] == ["test/run/001"]


def test_a_model_of_another_frame_rate_gets_the_frames_shown_at_its_moments(toy_set):
    spec = replace(SPEC, clip_len=6, frame_stride=1, fps=15.0)  # the videos have 25
    clips, _, _ = load(EvalDataset(toy_set, spec, "test", num_clips=1), 0)

    start = (20 - 9) // 2
    assert frames_of(clips[0]) == [start + step for step in (0, 1, 3, 5, 6, 8)]


def test_frames_stored_too_far_apart_for_the_model_name_the_video(tmp_path):
    write_naming_video(tmp_path / "videos" / "train" / "run" / "a.avi", 40)
    source = find_source(str(tmp_path / "videos"), {}, ROOT)
    preprocess(source, Settings(TOY_SIZE, every=4))
    frame_set = open_frames(source, SPEC)

    with pytest.raises(UserError, match="train/run/a.avi: only one in 4 .* stride of 2. Give a --frame-stride that 4"):
        TrainDataset(frame_set, SPEC)
    clip, _, _ = load(TrainDataset(frame_set, replace(SPEC, frame_stride=4)), 0)
    assert set(np.diff(frames_of(clip)) % NUM_NAMES) == {4}


def test_there_is_no_validation_loader_without_validation_videos(toy_source, toy_frames):
    train, val = build_loaders(open_frames(toy_source, SPEC, val="none"), SPEC, batch_size=4, num_workers=0)

    assert len(train.dataset) == 18 and val is None


def test_opening_looks_at_no_video_and_at_no_frame(tmp_path, toy_source, toy_frames):
    """The manifest says all: what stands in it is opened though there is no folder behind."""
    row = manifest.read_manifest(toy_frames)[0]
    names = [f"Biking/v_Biking_g{group:02d}_c{clip:02d}" for group in range(1, 26) for clip in range(100)]
    rows = [replace(row, video=f"{name}.avi", folder=f"gone/{name}") for name in names]
    manifest.write_manifest(tmp_path, rows)

    frame_set = open_frames(with_frames(replace(toy_source, videos=tmp_path / "gone"), str(tmp_path)), SPEC)
    dataset = TrainDataset(frame_set, SPEC)

    assert (len(frame_set.rows), len(dataset), len(frame_set.part("test"))) == (2500, 1500, 700)
    assert [path.name for path in tmp_path.iterdir()] == [manifest.NAME]
    with pytest.raises(UserError, match="The frame .*gone/Biking/.*jpg is missing"):
        load(dataset, 0)


def test_a_data_set_travels_to_another_process(toy_set):
    dataset = pickle.loads(pickle.dumps(TrainDataset(toy_set, SPEC, flip=True)))
    assert np.array_equal(load(dataset, 5, 3)[0], load(TrainDataset(toy_set, SPEC, flip=True), 5, 3)[0])
