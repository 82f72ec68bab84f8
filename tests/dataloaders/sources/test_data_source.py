from dataclasses import replace
from pathlib import Path

import pytest

import mypath
from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.sources.data_source import DataSource, class_names
from dataloaders.sources.find import detect_layout, find_source, find_videos, with_frames
from dataloaders.sources.recordings import groups_of
from tests.helpers.toy import make_files, make_toy_videos


def folder_source(videos: Path, **others) -> DataSource:
    return DataSource("mine", videos, videos.with_name("frames"), **others)


def test_groups_that_match_no_name_are_refused_not_ignored(tmp_path, capsys):
    videos = make_toy_videos(tmp_path / "own", groups=(1, 2), clips=1, naming="folder")
    source = DataSource("own", videos, tmp_path / "frames", groups=r"^(person\d+)_")
    with pytest.raises(UserError, match="matches none of the 6 names"):
        find_videos(source)
    assert len(find_videos(replace(source, groups=r"^(g01)"))) == 6
    assert "does not match 3 names" in capsys.readouterr().out


def test_class_order_is_classinds_with_or_without_the_list(tmp_path):
    """Trap 7: ASCII sorting puts HammerThrow before Hammering and JumpRope before JumpingJack."""
    official = ["ApplyLipstick", "Hammering", "HammerThrow", "JumpingJack", "JumpRope", "YoYo"]
    lists = tmp_path / "lists"
    lists.mkdir()
    lines = "".join(f"{number} {name}\r\n" for number, name in enumerate(official, 1))
    (lists / "classInd.txt").write_bytes(lines.encode())
    source = folder_source(tmp_path, layout="ucf101")

    assert class_names(source, set(official)) == official
    assert class_names(folder_source(tmp_path, layout="ucf101", splits=lists), set(official)) == official
    assert sorted(official) != official


def test_class_order_follows_classind_where_that_is_not_alphabetical(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 Zebra\n2 Ape\n3 Bear\n")
    source = folder_source(tmp_path, splits=tmp_path)

    assert class_names(source, {"Ape", "Zebra"}) == ["Zebra", "Ape"]
    assert class_names(source, {"ape", "Zebra", "Crow"}) == ["ape", "Crow", "Zebra"]  # not what the list is about


def test_classes_that_differ_by_case_only_have_one_order(tmp_path):
    assert class_names(folder_source(tmp_path), {"run", "Run", "jump"}) == ["jump", "Run", "run"]


def test_the_class_is_the_folder_and_never_the_file_name(tmp_path):
    """Trap 8: HandstandPushups holds files named v_HandStandPushups_..."""
    make_files(tmp_path, "HandstandPushups/v_HandStandPushups_g01_c01.avi")

    (video,) = find_videos(folder_source(tmp_path, layout=detect_layout(tmp_path)))

    assert (video.label, video.group) == ("HandstandPushups", "HandstandPushups/g01")


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["Biking/v_Biking_g01_c01.avi", "YoYo/v_YoYo_g25_c02.mp4"], "ucf101"),
        (["train/Biking/v_Biking_g01_c01.avi", "test/Biking/v_Biking_g02_c01.avi"], "ucf101"),
        (["run/a.avi", "walk/b.avi"], "folder"),
        (["run/a.avi", "walk/v_walk_g01_c01.avi"], "folder"),
        (["Biking/v_Biking_g01_c01.avi", "Biking/thumbs/x.avi", "Biking/notes.txt"], "ucf101"),
    ],
)
def test_the_layout_is_seen_from_the_names(tmp_path, names, layout):
    assert find_source(str(make_files(tmp_path / "set", *names)), {}, ROOT).layout == layout


def test_one_stray_video_does_not_make_ucf101_a_folder_without_groups(tmp_path):
    """Trap 2 by the back door: as a plain folder, UCF101 would be divided without regard to its groups."""
    names = [f"Biking/v_Biking_g{group:02d}_c01.avi" for group in range(1, 9)]
    videos = make_files(tmp_path / "set", *names, "Biking/mine.avi")
    source = find_source(str(videos), {}, ROOT)

    assert source.layout == "ucf101"
    with pytest.raises(UserError, match="'mine' in class Biking is not named as UCF101"):
        find_videos(source)


def test_divided_folders_give_each_video_its_part_and_its_class(tmp_path):
    make_files(tmp_path, "train/run/a.avi", "validation/run/b.avi", "Test/walk/a.avi")

    found = find_videos(folder_source(tmp_path))

    assert [(video.video, video.label, video.given) for video in found] == [
        ("Test/walk/a.avi", "walk", "test"),
        ("train/run/a.avi", "run", "train"),
        ("validation/run/b.avi", "run", "val"),
    ]


def test_classes_called_test_and_jump_are_classes(tmp_path):
    make_files(tmp_path, "test/a.avi", "jump/a.avi")

    assert {video.label for video in find_videos(folder_source(tmp_path))} == {"test", "jump"}


def test_val_beside_validation_is_refused(tmp_path):
    make_files(tmp_path, "train/run/a.avi", "val/run/b.avi", "validation/run/c.avi")

    with pytest.raises(UserError, match="Both val/ and validation/ are there"):
        find_videos(folder_source(tmp_path))


def test_hidden_files_texts_and_folders_are_no_videos(tmp_path):
    make_files(tmp_path, "run/a.avi", "run/._a.avi", "run/.b.avi", "run/list.txt", "run/more/c.avi", ".git/x/y.avi")

    assert [video.video for video in find_videos(folder_source(tmp_path))] == ["run/a.avi"]


def test_names_with_dots_keep_apart(tmp_path):
    """Trap 9: name.split('.')[0]: names with dots collide."""
    make_files(tmp_path, "run/take.1.avi", "run/take.2.avi")

    found = find_videos(folder_source(tmp_path))

    assert [video.stem for video in found] == ["take.1", "take.2"]
    assert len({video.group for video in found}) == 2


def test_one_name_with_two_endings_is_two_videos_of_one_group(tmp_path):
    make_files(tmp_path, "run/a.avi", "run/a.mp4")

    found = find_videos(folder_source(tmp_path))

    assert [video.video for video in found] == ["run/a.avi", "run/a.mp4"]
    assert len({video.group for video in found}) == 1


def test_an_empty_class_folder_is_refused_by_name(tmp_path):
    make_files(tmp_path, "run/a.avi", "walk/._a.avi")

    with pytest.raises(UserError, match="class folder .*walk has no videos"):
        find_videos(folder_source(tmp_path))


def test_a_missing_folder_is_named():
    with pytest.raises(UserError, match=r"There is no folder '\./no/such'"):
        find_source("./no/such", mypath.DATASETS, ROOT)
    with pytest.raises(UserError, match="There is no folder /no/such for the videos of 'mine'"):
        find_videos(folder_source(Path("/no/such")))


def test_an_unedited_mypath_is_said_to_be_unedited():
    entry = {"layout": "ucf101", "videos": "/path/to/UCF-101"}

    with pytest.raises(UserError, match="mypath.py is not edited yet.*--dataset demo"):
        find_videos(find_source("ucf101", {"ucf101": entry}, ROOT))


def test_an_unknown_data_set_is_a_usage_error_with_the_nearest_name():
    with pytest.raises(UsageError, match="Unknown data set 'ucf11'. Did you mean 'ucf101'\\? Available: .*hmdb51"):
        find_source("ucf11", mypath.DATASETS, ROOT)


def test_videos_without_class_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no folders. A data set is a folder of class folders"):
        find_source(str(make_files(tmp_path / "flat", "a.avi")), {}, ROOT)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"videos": "v", "layuot": "folder"}, "has the key 'layuot'. Did you mean 'layout'"),
        ({"layout": "folder"}, "has no key 'videos'"),
        ({"list": None, "frames": "f"}, "has no key 'videos'"),
        ({"videos": "v", "classes": "c.txt"}, "has 'classes', which needs a 'list'"),
        ({"videos": "v", "layout": "ucf"}, "has the layout 'ucf'. Known layouts: folder, hmdb51, ucf101"),
        ({"videos": "v", "groups": "(x"}, "is no regular expression"),
        ({"videos": "v", "flip": "False"}, "'flip' of 'mine' is 'False'. It must be True or False, without quotes."),
        ({"videos": 7}, "'videos' of 'mine' is 7. It must be a path in quotes."),
        ({"videos": "v", "groups": True}, "'groups' of 'mine' is True. It must be a text in quotes."),
    ],
)
def test_mistakes_in_mypath_are_named(entry, message):
    with pytest.raises(UserError, match="mypath.py: .*" + message.replace("(", r"\(")):
        find_source("mine", {"mine": entry}, ROOT)


def test_a_mistake_in_mypath_names_its_line(tmp_path):
    entry = {"videos": "v", "flip": "False"}
    lines = ["DATASETS = {", '"other": {"flip": True},', '"mine": {', '"videos": "v",', '"flip": "False",', "}}"]
    (tmp_path / "mypath.py").write_text("\n".join(lines))
    with pytest.raises(UserError, match="^mypath.py, line 5: 'flip' of 'mine'"):
        find_source("mine", {"mine": entry}, tmp_path)


def test_a_class_folder_spelled_with_two_signs_for_a_letter_is_the_class_of_the_list(tmp_path):
    videos = make_files(tmp_path / "videos", "ho\u0308he/a.avi", "weit/b.avi")
    assert {video.label for video in find_videos(find_source(str(videos), {}, tmp_path))} == {"h\u00f6he", "weit"}


def test_relative_paths_count_from_the_projects_folder_and_home_is_home():
    source = find_source("mine", {"mine": {"videos": "data/v", "frames": "~/f"}}, Path("/project"))

    assert source.videos == Path("/project/data/v")
    assert source.frames == Path.home() / "f"


def test_frames_of_another_size_lie_beside_the_first_ones_unless_the_folder_is_given(tmp_path):
    source = folder_source(tmp_path / "videos")

    assert source.frames_for((171, 128)) == tmp_path / "frames"
    assert source.frames_for((80, 60)) == tmp_path / "frames-80x60"
    assert with_frames(source, str(tmp_path / "other")).frames_for((80, 60)) == tmp_path / "other"


@pytest.mark.parametrize(
    ("others", "stem", "group"),
    [
        ({"layout": "ucf101"}, "v_wave_g07_c04", "wave/g07"),
        ({"layout": "hmdb51"}, "The_wave_film_wave_u_nm_np1_fr_goo_37", "wave/The_wave_film"),
        ({"layout": "hmdb51"}, "RATRACE_wave_f_nm_np1_fr_goo_37", "wave/RATRACE"),
        ({"groups": r"^([a-z]+)_"}, "denis_wave2", "denis"),
        ({"groups": r"^person\d+"}, "person07_x", "person07"),
        ({"groups": r"^person\d+"}, "someone", "wave/someone"),
        ({}, "denis_wave2", "wave/denis_wave2"),
    ],
)
def test_the_group_is_the_recording(tmp_path, others, stem, group):
    names = [("wave", stem), *([("wave", "person07_x")] if "groups" in others else [])]  # one that matches
    assert groups_of(folder_source(tmp_path, **others), names)[0] == group


def test_a_class_folder_and_a_file_that_is_no_list_are_called_that(tmp_path):
    make_files(tmp_path / "films" / "run", "a.avi")
    with pytest.raises(UserError, match="If it is a class itself, give .*films"):
        find_source(str(tmp_path / "films" / "run"), {}, ROOT)
    (tmp_path / "README.md").write_text('a "quotation mark')
    with pytest.raises(UserError, match="README.md is not a list of videos. --dataset takes"):
        find_source(str(tmp_path / "README.md"), {}, ROOT)
