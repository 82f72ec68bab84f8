import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders.frame_set import open_frames
from dataloaders.frames.manifest import NAME, PARTIAL_NAME, read_manifest
from dataloaders.frames.settings import Settings
from dataloaders.preprocess import ensure
from dataloaders.preprocess.ensure import ensure_frames, estimate
from dataloaders.preprocess.run import preprocess
from tests.helpers.preprocess import contents
from tests.helpers.toy import TOY_SIZE, write_naming_video

SMALL = Settings(TOY_SIZE)
SPEC = InputSpec(clip_len=4, resize=TOY_SIZE, crop_size=56)


def test_ensure_frames_says_what_it_will_take_and_does_it(two_videos, capsys):
    ensure_frames(two_videos, TOY_SIZE)

    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Frames of 'videos' at 80x60 are not extracted yet: 2 videos, about 0 MB and ")
    assert first.endswith(f" into {two_videos.frames_for(TOY_SIZE)}.")
    assert second.startswith("Extracted 2 videos, 14 frames, ")
    ensure_frames(two_videos, TOY_SIZE)
    assert capsys.readouterr().out == ""


def test_ensure_frames_extracts_what_was_added_with_the_settings_that_are_there(two_videos):
    preprocess(two_videos, Settings(TOY_SIZE, every=2, quality=80))
    os.utime(two_videos.frames_for(TOY_SIZE) / NAME, (1, 1))
    write_naming_video(two_videos.videos / "run" / "c.avi", 6)

    ensure_frames(two_videos, TOY_SIZE)

    rows = read_manifest(two_videos.frames_for(TOY_SIZE))
    assert [(row.video, row.num_frames, row.quality) for row in rows] == [
        ("run/a.avi", 3, 80),
        ("run/c.avi", 3, 80),
        ("walk/b.avi", 4, 80),
    ]


def test_ensure_frames_leaves_videos_alone_that_are_younger_but_the_same(two_videos, capsys):
    """As after copying a data set to another machine."""
    preprocess(two_videos, SMALL)
    os.utime(two_videos.frames_for(TOY_SIZE) / NAME, (1, 1))
    capsys.readouterr()

    ensure_frames(two_videos, TOY_SIZE)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["replaced", "renamed", "added", "removed"])
def test_ensure_frames_sees_a_change_whatever_the_dates_are(two_videos, change):
    """As after `mv` or `cp -a` of another data set to this place."""
    videos, frames = two_videos.videos, two_videos.frames_for(TOY_SIZE)
    preprocess(two_videos, SMALL)
    if change == "replaced":
        write_naming_video(videos / "run" / "a.avi", 9)
    elif change == "renamed":
        (videos / "run").rename(videos / "jump")
    elif change == "added":
        write_naming_video(videos / "run" / "c.avi", 6)
    else:
        write_naming_video(videos / "run" / "c.avi", 6)
        (videos / "run" / "a.avi").unlink()
    for path in [videos, *videos.rglob("*")]:
        os.utime(path, (1, 1))

    ensure_frames(two_videos, TOY_SIZE)

    lengths = {row.video: row.num_frames for row in read_manifest(frames)}
    expected = {
        "replaced": {"run/a.avi": 9, "walk/b.avi": 8},
        "renamed": {"jump/a.avi": 6, "walk/b.avi": 8},
        "added": {"run/a.avi": 6, "run/c.avi": 6, "walk/b.avi": 8},
        "removed": {"run/c.avi": 6, "walk/b.avi": 8},
    }
    assert lengths == expected[change]
    assert {row.video for row in open_frames(two_videos, SPEC, val="none").rows} == set(lengths)


def test_frames_of_other_videos_are_neither_used_nor_lost(two_videos, tmp_path, capsys):
    """--frames names those of another data set; those of a larger one are fine."""
    preprocess(two_videos, SMALL)
    frames = two_videos.frames_for(TOY_SIZE)
    before = (frames / NAME).read_bytes()
    other = replace(two_videos, videos=tmp_path / "other", frames=frames, frames_given=True)
    write_naming_video(other.videos / "run" / "a.avi", 7)  # the same name
    write_naming_video(other.videos / "walk" / "c.avi", 6)
    with pytest.raises(UserError, match=r"the frames of 2 videos, and none of them is in .*other unchanged"):
        ensure_frames(other, TOY_SIZE)
    shutil.rmtree(other.videos / "run")
    with pytest.raises(UserError, match="None of the 2 videos that have frames is in .*other"):
        open_frames(other, SPEC, val="none")

    shutil.rmtree(other.videos)
    shutil.copytree(two_videos.videos, other.videos)
    (other.videos / "run" / "a.avi").rename(tmp_path / "a.avi")
    write_naming_video(two_videos.videos / "run" / "d.avi", 5)
    capsys.readouterr()
    (other.videos / "run").rmdir()
    ensure_frames(other, TOY_SIZE)
    assert [row.video for row in open_frames(other, SPEC, val="none").rows] == ["walk/b.avi"]
    assert "left out, because not in other: 1 video (first: run/a.avi)" in capsys.readouterr().out
    assert (frames / NAME).read_bytes() == before


def test_ensure_frames_stops_before_it_fills_a_disk_that_is_too_small(two_videos, monkeypatch):
    monkeypatch.setattr(ensure.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))

    with pytest.raises(UserError, match="has 0 MB free, which is too little"):
        ensure_frames(two_videos, TOY_SIZE)
    assert not (two_videos.frames_for(TOY_SIZE) / PARTIAL_NAME).exists()


def test_a_mistyped_folder_of_frames_beside_the_right_one_is_not_filled(two_videos, tmp_path):
    given = replace(two_videos, frames=tmp_path / "disk" / "frames", frames_given=True)
    ensure_frames(given, TOY_SIZE)
    mistyped = replace(given, frames=tmp_path / "disk" / "frame")
    with pytest.raises(UserError, match="frame does not exist, and .*frames beside it holds .*: mkdir .*frame"):
        ensure_frames(mistyped, TOY_SIZE)
    ensure_frames(mistyped, (40, 30))  # another size
    other = replace(given, frames=tmp_path / "disk" / "other")
    other.frames.mkdir()
    ensure_frames(other, TOY_SIZE)
    assert len(list(other.frames.rglob("*.jpg"))) == 14


def test_frames_made_elsewhere_are_left_as_they_are(two_videos):
    folder = two_videos.frames / "run" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "00001.jpg"), np.zeros((8, 8, 3), np.uint8))

    ensure_frames(two_videos, (171, 128))

    assert list(contents(two_videos.frames)) == ["run/a/00001.jpg"]


def test_the_estimate_is_near(toy_source, toy_frames):
    need = estimate(toy_source, SMALL)
    num_bytes = sum(path.stat().st_size for path in toy_frames.rglob("*.jpg"))

    assert (need.num_videos, need.num_frames) == (24, 480)
    assert need.num_bytes == pytest.approx(num_bytes, rel=0.2)
    assert need.seconds > 0
