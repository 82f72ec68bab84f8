"""Folders of videos as people have them, and what is said of those that are none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.files import ROOT
from dataloaders.sources.data_source import class_names
from dataloaders.sources.find import find_source, find_videos
from dataloaders.sources.splits import split_videos
from tests.helpers.toy import UCF_CLASSES, make_files

UCF_NAMES = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in UCF_CLASSES for group in range(1, 26)]
HMDB_NAMES = [
    f"{name}/Film{film}_{name}_u_cm_np1_fr_med_{clip}.avi"
    for name in ("brush_hair", "wave")
    for film in range(12)
    for clip in range(3)
]


def open_folder(folder: Path):
    source = find_source(str(folder), {}, ROOT)
    return source, find_videos(source)


@pytest.mark.parametrize("deeper", ["", "UCF-101"])
def test_ucf101_is_known_by_its_names_one_folder_deeper_too(tmp_path, deeper):
    make_files(tmp_path / "set" / deeper, *UCF_NAMES)
    make_files(tmp_path / "set", "UCF101.rar", "ucfTrainTestlist/trainlist01.txt", "ucfTrainTestlist/classInd.txt")
    source, videos = open_folder(tmp_path / "set")

    assert source.layout == "ucf101" and len(videos) == 75
    assert class_names(source, {video.label for video in videos}) == list(UCF_CLASSES)
    assert len(split_videos(source, videos, "2").videos("test")) == 21


@pytest.mark.parametrize(
    "place",
    [
        "testTrainMulti_7030_splits",
        "set/testTrainMulti_7030_splits",
        "test_train_splits/testTrainMulti_7030_splits",
        "testTrainMulti_7030_splits/testTrainMulti_7030_splits",
    ],
)
def test_hmdb51_finds_its_lists_among_its_videos_or_beside_them(tmp_path, place):
    make_files(tmp_path / "set", *HMDB_NAMES)
    write_hmdb_lists_of(tmp_path / place)
    source, videos = open_folder(tmp_path / "set")

    assert source.layout == "hmdb51" and {video.label for video in videos} == {"brush_hair", "wave"}
    parts = split_videos(source, videos, val="none").parts
    assert parts["wave/Film0_wave_u_cm_np1_fr_med_1.avi"] == "test"
    assert parts["wave/Film0_wave_u_cm_np1_fr_med_0.avi"] == "train"

    entry = {"layout": "hmdb51", "videos": str(tmp_path / "set"), "splits": str((tmp_path / place).parent)}
    named = find_source("h", {"h": entry}, ROOT)
    assert named.splits == source.splits == tmp_path / place


def test_frames_of_hmdb51_without_their_videos_find_the_lists_beside_them(tmp_path):
    names = [name.removesuffix(".avi") for name in HMDB_NAMES]
    make_files(tmp_path / "h-frames", *(f"{name}/image_00001.jpg" for name in names))
    write_hmdb_lists_of(tmp_path / "testTrainMulti_7030_splits")
    source = find_source("h", {}, ROOT, str(tmp_path / "h-frames"))

    assert source.layout == "hmdb51" and source.splits == tmp_path / "testTrainMulti_7030_splits"


def write_hmdb_lists_of(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("brush_hair", "wave"):
        mine = [Path(video).name for video in HMDB_NAMES if video.startswith(name)]
        lines = "".join(f"{video} {1 + (clip % 3 == 1)} \n" for clip, video in enumerate(mine))
        for split in "123":
            (folder / f"{name}_test_split{split}.txt").write_text(lines)


def test_hmdb51_without_lists_is_not_divided_by_chance_unasked(tmp_path):
    source, videos = open_folder(make_files(tmp_path / "set", *HMDB_NAMES))

    with pytest.raises(UserError, match="splits of HMDB51 need its list files.*--split random"):
        split_videos(source, videos)
    parts = split_videos(source, videos, "random").parts
    assert len({parts[video.video] for video in videos if "/Film3_brush" in video.video}) == 1


def test_a_class_in_a_folder_of_its_own_name_is_found(tmp_path):
    make_files(tmp_path, "run/run/a.avi", "walk/b.avi")

    _, videos = open_folder(tmp_path)
    assert [(video.video, video.label) for video in videos] == [("run/run/a.avi", "run"), ("walk/b.avi", "walk")]


@pytest.mark.parametrize("stray", ["c.mp4", "run/more/c.mp4"])
def test_videos_that_are_in_no_class_folder_are_said(tmp_path, capsys, stray):
    make_files(tmp_path, "run/a.avi", "walk/b.avi", "README", stray)

    assert len(open_folder(tmp_path)[1]) == 2
    assert (
        f"Note: not used, because not directly in a class folder: 1 video (first: {stray})." in capsys.readouterr().out
    )


def test_videos_beside_the_classes_of_a_divided_folder_are_said(tmp_path, capsys):
    make_files(tmp_path, "train/run/a.avi", "test/run/b.avi", "train/lost.avi")

    assert len(open_folder(tmp_path)[1]) == 2
    assert "1 video (first: train/lost.avi)" in capsys.readouterr().out


@pytest.mark.parametrize("tree", ["run/a/00001.jpg", "train/run/a/img_1.png", "unused/run/a/00001.jpg"])
def test_a_folder_of_frames_as_data_set_is_told_where_it_belongs(tmp_path, tree):
    path = tmp_path / "set" / tree
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))

    with pytest.raises(
        UserError, match=rf"set holds frames \({tree}\), not videos. Give it as --frames: --dataset NAME"
    ):
        open_folder(tmp_path / "set")
    assert find_source("anything", {}, ROOT, str(tmp_path / "set")).frames == tmp_path / "set"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["hmdb51_org.rar"], "holds hmdb51_org.rar, not unpacked. Run: .*unrar x ../hmdb51_org.rar && for f in"),
        (["brush_hair.rar", "wave.rar"], r"holds 2 archives, not unpacked. Run: cd \S*set && for f in \*.rar; do"),
        (["UCF101.rar"], "Run: cd .* && unrar x UCF101.rar"),
        (["my videos.zip"], "Run: cd .* && unzip 'my videos.zip'"),
        (["run/a.zip"], "run holds a.zip, not unpacked. Run: cd .*run && unzip a.zip"),
        (["a/b/c/d.avi", "e/f/g/h.avi"], r"Its videos are deeper \(b/c/d.avi\)"),
    ],
)  # fmt: skip
def test_what_is_there_instead_of_videos_is_said_with_what_to_do(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        open_folder(make_files(tmp_path / "set", *files))


def test_an_archive_beside_a_missing_folder_is_named(tmp_path):
    make_files(tmp_path, "UCF101.rar")
    source = find_source("u", {"u": {"layout": "ucf101", "videos": str(tmp_path / "UCF-101")}}, ROOT)

    with pytest.raises(
        UserError, match="There is no folder .*UCF-101, but .*UCF101.rar, which is not unpacked. Run: cd"
    ):
        find_videos(source)
