"""Which videos were cut from one recording, and splits that outlive growth."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from common import console
from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders.frame_set import open_frames
from dataloaders.frames.settings import Settings
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.find import find_source, find_videos
from dataloaders.sources.recordings import COUNTER, groups_of
from dataloaders.sources.splits import split_videos
from tests.helpers.toy import TOY_SIZE, make_files, make_toy_videos


def folder(**changes) -> DataSource:
    return DataSource("mine", Path("/videos"), Path("/frames"), **changes)


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("match_s000001", "match"), ("film-Scene-003", "film"), ("talk_000012_000022", "talk"), ("clip (2)", "clip"),
        ("walk 3", "walk"), ("game.part2", "game"), ("take", "take"), ("GOPR0123", "GOPR0123"),
        ("daria_run", "daria_run"), ("person01_run_d1", "person01_run_d1"), ("mp4box", "mp4box"),
    ],
)  # fmt: skip
def test_a_counter_at_the_end_is_no_part_of_the_recordings_name(name, recording):
    assert COUNTER.sub("", name) == recording


def cuts(classes=("jump", "run"), sources=("anna", "ben", "cleo"), number=3) -> list[tuple[str, str]]:
    return [(label, f"{source}_s{n:06d}") for label in classes for source in sources for n in range(number)]


def test_cuts_of_one_source_are_one_recording_across_classes_and_it_is_said(capsys):
    console.print_once.cache_clear()
    groups = groups_of(folder(), cuts())
    assert set(groups) == {"anna", "ben", "cleo"}
    output = capsys.readouterr().out
    assert "names end in counters (anna_s000000)" in output and "(3 recordings in all)" in output
    assert "groups=r'.+'" in output
    assert len(set(groups_of(folder(groups=".+"), cuts()))) == 9, "the remedy that the note names"


@pytest.mark.parametrize(
    "names",
    [
        [("run", f"run_{n:03d}") for n in range(9)] + [("jump", f"jump_{n:03d}") for n in range(9)],  # counts the class
        [(label, f"{n:03d}") for label in ("run", "jump") for n in range(9)],  # nothing but the counter
        [(label, f"video_{n}") for label in ("run", "jump") for n in range(9)],  # one name for everything
        [(label, name) for label in ("run", "jump") for name in ("anna", "ben", "cleo", "dan")],  # no counter
        [("run", f"{name}_1") for name in "abcdefgh"],  # each name once
    ],
)
def test_counters_that_tell_no_recordings_leave_each_video_its_own(names, capsys):
    assert groups_of(folder(), names) == [f"{label}/{stem}" for label, stem in names]
    assert capsys.readouterr().out == ""


def test_runs_made_before_keep_their_recordings():
    assert groups_of(folder(drawing=1), cuts()) == [f"{label}/{stem}" for label, stem in cuts()]


def test_an_expression_that_matches_nothing_is_refused_at_every_opening(tmp_path):
    """It was accepted once the frames were there: a recording in training and test without a word."""
    source = DataSource("mine", make_toy_videos(tmp_path / "videos", naming="folder", clips=1), tmp_path / "frames")
    preprocess(source, Settings(TOY_SIZE), workers=1)
    spec = InputSpec(clip_len=4, frame_stride=1, resize=TOY_SIZE, crop_size=48)
    open_frames(source, spec)
    wrong = replace(source, groups=r"^person(\d+)")
    for opening in (lambda: find_videos(wrong), lambda: open_frames(wrong, spec)):
        with pytest.raises(
            UserError, match=re.escape(r"groups r'^person(\d+)' of 'mine' matches none of the 12 names")
        ):
            opening()


def test_an_expression_that_puts_all_into_one_recording_is_warned_of(capsys):
    groups_of(folder(groups=r"_s\d"), cuts())
    assert (
        "WARNING: groups r'_s\\d' of 'mine' puts 18 of 18 videos into one recording ('_s0')" in capsys.readouterr().out
    )


def drawn(num: int, without: int | None = None) -> dict[str, str]:
    videos = [
        SourceVideo(f"{label}/r{n}.avi", label, f"r{n:03d}{label}", "")
        for label in ("jump", "run", "walk")
        for n in range(num)
        if n != without
    ]
    return split_videos(folder(), videos, "random").parts


def test_a_random_split_outlives_recordings_that_are_added_or_removed():
    """One more video drew it anew: 38 of 60 test videos were then among those trained on."""
    before = drawn(100)
    for after in (drawn(101), drawn(100, without=7)):
        moved = [video for video, part in before.items() if video in after and after[video] != part]
        assert len(moved) <= 6, "at the ends of test and validation, a video of each class"
    assert sum(part == "test" for part in before.values()) == 45


def test_a_run_made_before_keeps_its_random_split():
    videos = [SourceVideo(f"a/{n}.avi", "a", f"a/{n}", "") for n in range(20)]
    old = split_videos(folder(drawing=1), videos, "random")
    assert old.videos("test") == ["a/0.avi", "a/6.avi", "a/7.avi"] and old.hash == "214ab769a7c2cca6"
    assert split_videos(folder(), videos, "random").hash != old.hash


def test_the_real_names_of_cut_videos_are_told(tmp_path):
    names = [
        f"{label}/{source}_s{n:06d}.avi" for label, source in (("jack", "daria"), ("run", "ido")) for n in range(3)
    ]
    more = [
        f"{label}/{source}_s{n:06d}.avi" for label in ("jack", "run") for source in ("eli", "lena") for n in range(3)
    ]
    source = find_source(str(make_files(tmp_path / "clips", *names, *more)), {}, tmp_path)
    assert {video.group for video in find_videos(source)} == {"daria", "ido", "eli", "lena"}
