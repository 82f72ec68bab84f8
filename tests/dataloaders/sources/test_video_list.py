"""A list of videos as a data set: what its lines may look like, and what is said of those that are wrong."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.files import ROOT
from common.input_spec import InputSpec
from dataloaders.frame_set import open_frames
from dataloaders.frames import manifest
from dataloaders.pack import pack
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.run import Settings, preprocess
from dataloaders.sources.data_source import class_names
from dataloaders.sources.find import find_source, find_videos
from dataloaders.sources.list_rows import read_video_list
from dataloaders.sources.splits import default_split, leaking_groups, split_videos
from tests.helpers.toy import TOY_SIZE, make_files, write_naming_video

SPEC = InputSpec(clip_len=4, frame_stride=1, crop_size=56, resize=TOY_SIZE)


def write_list(folder: Path, text: str, name: str = "list.csv") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


def listed(address: str, **entry) -> list[tuple[str, str, str, str]]:
    datasets = {"mine": {"list": address, **entry}} if entry else {}
    found = find_videos(find_source("mine" if entry else address, datasets, ROOT))
    return [(video.video, video.label, video.group, video.given) for video in found]


@pytest.mark.parametrize(
    "text",
    [
        "a.avi run\nmore/b.avi walk\n",
        "a.avi,run\nmore/b.avi,walk\n",
        "a.avi, run\r\nmore/b.avi, walk\r\n",
        "a.avi;run\nmore/b.avi;walk",
        "\ufeffa.avi\trun\n\n# later: c.avi\nmore/b.avi\twalk\n",
        "path,label\na.avi,run\nmore/b.avi,walk\n",
        "Class\tVideo\nrun\t./a.avi\nwalk\tmore/../more/b.avi\n",
        "video label\na.avi run\nmore/b.avi walk\n",
    ],
)
def test_lines_of_path_and_label_are_read_however_they_are_divided(tmp_path, text):
    make_files(tmp_path, "a.avi", "more/b.avi")

    expected = [("a.avi", "run", "run/a", ""), ("more/b.avi", "walk", "walk/b", "")]
    assert listed(write_list(tmp_path, text)) == expected


def test_groups_and_splits_come_from_the_list(tmp_path):
    make_files(tmp_path, "a.avi", "b.avi", "c.avi", "d.avi")
    lines = "a.avi,run,anna,train\nb.avi,run,ben,Validation\nc.avi,run,carl,test\nd.avi,run,,\n"
    source = find_source(write_list(tmp_path, lines), {}, ROOT)
    videos = find_videos(source)

    assert [video.group for video in videos] == ["anna", "ben", "carl", "run/d"]
    assert default_split(source, videos) == "given"
    parts = {"a.avi": "train", "b.avi": "val", "c.avi": "test", "d.avi": "unused"}
    assert split_videos(source, videos).parts == parts


def test_named_columns_may_stand_in_any_order_and_the_unused_ones_are_said(tmp_path, capsys):
    make_files(tmp_path, "a.avi", "b.avi")
    text = "split,fps,label,path\ntrain,25,air drumming,a.avi\ntest,25,yoga,b.avi\n"

    assert listed(write_list(tmp_path, text)) == [
        ("a.avi", "air drumming", "air drumming/a", "train"),
        ("b.avi", "yoga", "yoga/b", "test"),
    ]
    assert "columns of list.csv that are not used: fps" in capsys.readouterr().out


def test_a_third_column_of_train_and_test_is_taken_for_the_split_and_said(tmp_path, capsys):
    make_files(tmp_path, "a.avi", "b.avi")

    assert [given for *_, given in listed(write_list(tmp_path, "a.avi,run,train\nb.avi,run,test\n"))] == [
        "train",
        "test",
    ]
    assert "third column of list.csv has train, val or test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "video", "label"),
    [
        ("my clip (1).avi run\n", "my clip (1).avi", "run"),
        ('"my clip (1).avi" "air drumming"\n', "my clip (1).avi", "air drumming"),
        ("my clip (1).avi,air drumming\n", "my clip (1).avi", "air drumming"),
        ('"one, two.avi",run\n', "one, two.avi", "run"),
        ("one, two.avi\trun\n", "one, two.avi", "run"),
        ("one, two.avi run\n", "one, two.avi", "run"),
        ('"say ""go"".avi",run\n', 'say "go".avi', "run"),
    ],
)
def test_spaces_commas_and_quotes_in_names(tmp_path, text, video, label):
    make_files(tmp_path, video)

    assert [(found[0], found[1]) for found in listed(write_list(tmp_path, text))] == [(video, label)]


def test_paths_count_from_the_list_or_from_videos_or_from_the_root(tmp_path):
    make_files(tmp_path / "data", "a.avi", "b.avi")
    text = f"{tmp_path}/data/a.avi run\nb.avi walk\n"
    address = write_list(tmp_path / "lists", text, "mine.txt")

    assert [video for video, *_ in listed(address, videos=str(tmp_path / "data"))] == ["a.avi", "b.avi"]
    with pytest.raises(UserError, match=r"mine.txt, line 2: there is no file b.avi. Paths are relative to .*lists\."):
        listed(address)
    (tmp_path / "lists/b.avi").symlink_to(tmp_path / "data/b.avi")
    assert [video for video, *_ in listed(address)] == [f"{tmp_path}/data/a.avi", "b.avi"]
    beside = write_list(tmp_path / "lists", "../data/a.avi run\n", "up.txt")
    assert [video for video, *_ in listed(beside)] == ["../data/a.avi"]


def test_numbers_are_named_by_a_class_file_from_0_or_as_in_classind(tmp_path, capsys):
    make_files(tmp_path, "a.avi", "b.avi")
    address = write_list(tmp_path, "a.avi 2\nb.avi 1\n", "train.txt")

    assert [label for _, label, *_ in listed(address)] == ["2", "1"]
    assert "labels of train.txt are numbers, without a classes.txt beside it" in capsys.readouterr().out

    (tmp_path / "classInd.txt").write_bytes(b"1 Zebra\r\n2 Ape cat\r\n")
    assert [label for _, label, *_ in listed(address)] == ["Ape cat", "Zebra"]
    assert "classInd.txt names them (first: 1 Zebra)" in capsys.readouterr().out
    assert class_names(find_source(address, {}, ROOT), {"Ape cat", "Zebra"}) == ["Zebra", "Ape cat"]

    (tmp_path / "names").write_text("walk\nrun\njump\n")
    assert [label for _, label, *_ in listed(address, classes=str(tmp_path / "names"))] == ["jump", "run"]


def test_classes_that_are_numbers_have_the_order_of_the_numbers(tmp_path):
    source = find_source(write_list(tmp_path, "a.avi 10\nb.avi 9\n"), {}, ROOT)

    assert class_names(source, {"10", "9", "1"}) == ["1", "9", "10"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.avi run\nb.avi walk\na.avi walk\n", "lines 1 and 3: a.avi has two labels, run and walk"),
        ("a.avi,run,x,train\nb.avi,run,y,test\n./a.avi,run,x,test\n", "lines 1 and 3: a.avi is in two splits, train"),
        ("a.avi run\n\nb.avi run\na.avi run\n", "lines 1 and 4: a.avi is listed twice"),
        ("a.avi run\nno.avi run\nnor.avi run\n", r"line 2: there is no file no.avi \(and 1 more of 3\). Paths"),
        ("clip,verb\na.avi,run\n", "line 1: there is no file clip. .*A first line that names the columns says"),
        ("a.avi air drumming\n", "line 1: there is no file a.avi air. .*A label of several words needs a comma"),
        ("more/x 300 7\n", "line 1: there is no file more/x 300. .*Lists of frame folders .* are not accepted: give"),
        ("more run\n", "line 1: more is a folder. .*--frames"),
        ("a.avi,run\nb.avi\n", "line 2: no label in 'b.avi'. A line is one of: path label"),
        ("a.avi,run,anna,dev\n", "line 1: the split 'dev' is not one of train, val, test"),
        ("a.avi,run\nb,c.avi,run\n", "line 2: 3 columns, 2 above it. A name that contains a comma needs quotes"),
        ("a.avi,run,x,train,5\n", "line 1: 5 columns, where at most 4 are known"),
        ("a.avi,run/fast\n", "line 1: the label 'run/fast' cannot be the name of a folder"),
        ("a.avi,\n", "line 1: the label is empty"),
        ("a.avi,\nb.avi,run\n", "line 1: the label is empty"),
        ('b.avi,run\n"a.avi,run\nc.avi,run\n', "line 2: a quotation mark that begins there does not end"),
        ("# nothing\n\n", "lists no video. Each line must be one of"),
        ("path,label\n", "the names of the columns, and no video"),
        ("a\\b.avi,run\n", "there is no file a.b.avi. .*Write / between folders"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    make_files(tmp_path, "a.avi", "b.avi", "more/c.avi")

    with pytest.raises(UserError, match=message) as error:
        listed(write_list(tmp_path, text))
    assert "\n" not in str(error.value)


def test_labels_without_a_name_and_class_files_that_contradict_are_refused(tmp_path):
    make_files(tmp_path, "a.avi")
    address = write_list(tmp_path, "a.avi 3\n")
    names = tmp_path / "names"
    names.write_text("run\nwalk\n")
    with pytest.raises(UserError, match="line 1: the label 3 has no name in .*names, which names 0 to 1"):
        listed(address, classes=str(names))
    names.write_text("run\nrun\n")
    with pytest.raises(UserError, match="has a number or a name twice"):
        listed(address, classes=str(names))
    names.write_text("run\nwalk\n")
    with pytest.raises(UserError, match="line 1: the label 'Run' is not in"):
        listed(write_list(tmp_path, "a.avi Run\n"), classes=str(names))


def test_what_is_no_list_is_refused(tmp_path):
    write_naming_video(tmp_path / "a.avi", 2)
    (tmp_path / "b.list").write_bytes(b"\0\1\2")

    with pytest.raises(
        UserError, match="a.avi is a single video. --dataset takes a folder of class folders, or a list"
    ):
        find_source(str(tmp_path / "a.avi"), {}, ROOT)
    with pytest.raises(UserError, match="b.list is not a text file"):
        find_source(str(tmp_path / "b.list"), {}, ROOT)
    with pytest.raises(UserError, match="There is no list 'no.csv'"):
        find_source("no.csv", {}, ROOT)


def test_ucf101_by_a_list_without_groups_keeps_its_groups(tmp_path):
    """Trap 2 by the back door: a list of UCF101's videos, divided without regard to their groups."""
    names = [f"v_Biking_g{group:02d}_c{clip:02d}.avi" for group in range(1, 26) for clip in (1, 2)]
    make_files(tmp_path, *names)
    source = find_source(write_list(tmp_path, "".join(f"{name} Biking\n" for name in names)), {}, ROOT)
    videos = find_videos(source)

    assert default_split(source, videos) == "1"
    split = split_videos(source, videos, "random")
    assert leaking_groups(split, videos) == [] and len(set(video.group for video in videos)) == 25

    divided = "".join(f"{name},Biking,{'train' if number % 2 else 'test'}\n" for number, name in enumerate(names))
    source = find_source(write_list(tmp_path, divided), {}, ROOT)
    videos = find_videos(source)
    assert default_split(source, videos) == "given"
    assert len(leaking_groups(split_videos(source, videos), videos)) == 25


@pytest.fixture
def own_list(tmp_path) -> Path:
    """Two classes x three people, two files of one name, and a list that says who tests."""
    lines = ["path,label,group,split"]
    for label, name in enumerate(("run", "walk")):
        for person, part in (("anna", "train"), ("ben", "val"), ("carl", "test")):
            write_naming_video(tmp_path / person / f"{name}.avi", 6 + label, label)
            lines.append(f"{person}/{name}.avi,{name},{person},{part}")
    write_list(tmp_path, "\n".join(lines), "own.csv")
    return tmp_path / "own.csv"


def test_a_list_goes_the_whole_way_and_its_changes_arrive(own_list):
    source = find_source(str(own_list), {}, ROOT)
    ensure_frames(source, TOY_SIZE)
    frames = own_list.with_name("own-frames-80x60")
    frame_set = open_frames(source, SPEC)

    assert source.name == "own" and frame_set.classes == ["run", "walk"] and frame_set.split.name == "given"
    assert sorted(row.video for row in frame_set.part("test")) == ["carl/run.avi", "carl/walk.avi"]
    assert {row.group for row in frame_set.rows} == {"anna", "ben", "carl"}
    assert all(len(list((frames / row.folder).iterdir())) == row.num_frames for row in frame_set.rows)
    assert (frames / "test/walk/walk/00007.jpg").is_file()

    text = own_list.read_text().replace("anna,train", "anna,test").replace("carl,test", "carla,train")
    own_list.write_text(text)
    later = (frames / manifest.NAME).stat().st_mtime + 5
    os.utime(own_list, (later, later))
    ensure_frames(source, TOY_SIZE)
    changed = open_frames(source, SPEC)
    assert sorted(row.group for row in changed.part("test")) == ["anna", "anna"]
    assert sorted(row.group for row in changed.part("train")) == ["carla", "carla"]
    assert {row.folder for row in changed.rows} == {row.folder for row in frame_set.rows}  # they never move


PART_LISTS = {
    "train": "anna/run.avi,run\nanna/walk.avi,walk\n",
    "val": "ben/run.avi,run\n",
    "test": "carl/walk.avi,walk\n",
}


def write_part_lists(folder: Path, **parts: str) -> Path:
    make_files(folder, *(f"{person}/{name}.avi" for person in ("anna", "ben", "carl") for name in ("run", "walk")))
    for part, text in (PART_LISTS | parts).items():
        write_list(folder, text, f"{part}.csv")
    return folder


@pytest.mark.parametrize("given", ["", "train.csv"])
def test_three_lists_in_a_folder_are_the_parts_of_one_data_set(tmp_path, given):
    folder = write_part_lists(tmp_path / "mine")
    source = find_source(str(folder / given), {}, ROOT)
    videos = find_videos(source)

    assert {video.video: video.given for video in videos} == {
        "anna/run.avi": "train", "anna/walk.avi": "train", "ben/run.avi": "val", "carl/walk.avi": "test",
    }  # fmt: skip
    assert (source.name, source.frames) == ("mine", tmp_path / "mine-frames")
    [note] = read_video_list(source).notes
    assert note == "Lists that divide the videos: train.csv (2), val.csv (1), test.csv (1)."
    assert default_split(source, videos) == "given"
    assert find_source(source.address, {}, ROOT) == source


def test_a_video_in_two_of_three_lists_is_named_with_both(tmp_path):
    folder = write_part_lists(tmp_path / "mine", val="ben/run.avi,run\nanna/run.avi,run\n")
    with pytest.raises(
        UserError, match=r"train.csv, line 1, and val.csv, line 2: anna/run.avi is in two splits, train"
    ):
        listed(str(folder))
    folder = write_part_lists(tmp_path / "other", test="dora/walk.avi,walk\n")
    with pytest.raises(UserError, match=r"test.csv, line 1: there is no file dora/walk.avi"):
        listed(str(folder))


def test_lists_beside_folders_of_parts_and_a_test_list_alone_are_as_before(tmp_path):
    folder = write_part_lists(tmp_path / "mine")
    assert listed(str(folder / "test.csv")) == [("carl/walk.avi", "walk", "walk/walk", "")]
    split = "path,label,split\nanna/run.avi,run,test\n"
    assert listed(write_list(folder, split, "train.csv")) == [("anna/run.avi", "run", "run/run", "test")]
    classes = tmp_path / "classes"
    make_files(classes, "train/run/a.avi", "test/run/b.avi")
    write_list(classes, "a.avi,run\n", "train.csv")
    write_list(classes, "b.avi,\n", "test.csv")
    assert find_source(str(classes), {}, ROOT).list is None


def test_a_new_line_in_one_of_three_lists_is_extracted(tmp_path):
    folder = tmp_path / "mine"
    for label, name in enumerate(("run", "walk")):
        for person in ("anna", "ben", "carl"):
            write_naming_video(folder / person / f"{name}.avi", 6, label)
    for part, person in (("train", "anna"), ("test", "carl")):
        write_list(folder, f"{person}/run.avi,run\n{person}/walk.avi,walk\n", f"{part}.csv")
    source = find_source(str(folder), {}, ROOT)
    ensure_frames(source, TOY_SIZE)
    assert sorted(row.video for row in open_frames(source, SPEC).part("test")) == ["carl/run.avi", "carl/walk.avi"]

    write_list(folder, "carl/run.avi,run\ncarl/walk.avi,walk\nben/run.avi,run\n", "test.csv")
    later = (source.frames_for(TOY_SIZE) / manifest.NAME).stat().st_mtime + 5
    os.utime(folder / "test.csv", (later, later))
    ensure_frames(source, TOY_SIZE)
    assert len(open_frames(source, SPEC).part("test")) == 3

    folder.rename(tmp_path / "moved")
    kept = find_source(source.address, {}, ROOT)
    ensure_frames(kept, TOY_SIZE)
    assert len(open_frames(kept, SPEC).part("test")) == 3  # the frames are enough


def make_frames_elsewhere(frames: Path, *videos: str) -> str:
    """A tree as another program leaves it: <class>/<video>/image_00001.jpg."""
    for video in videos:
        (frames / video).mkdir(parents=True)
        for number in range(1, 5):
            cv2.imwrite(str(frames / video / f"image_{number:05d}.jpg"), np.full((60, 80, 3), 40 * number, np.uint8))
    return str(frames)


def test_frames_made_elsewhere_have_the_groups_and_the_split_of_the_list(tmp_path, capsys):
    names = [f"{label}/{person}_{label}" for label in ("run", "walk") for person in ("anna", "ben", "carl")]
    frames = make_frames_elsewhere(tmp_path / "frames", *names, "walk/dora_walk")
    lines = [
        f"clips/{name.split('/')[1]}.avi,{name.split('/')[0]},{name.split('/')[1].split('_')[0]}" for name in names
    ]
    divided = [f"{line},{dict(anna='train', ben='val', carl='test')[line.split(',')[2]]}" for line in lines]
    source = find_source(
        write_list(tmp_path, "\n".join([*divided, "clips/emil_run.avi,run,emil,test"])), {}, ROOT, frames
    )

    frame_set = open_frames(source, SPEC)
    assert frame_set.split.name == "given" and frame_set.classes == ["run", "walk"]
    assert {(row.video, row.group) for row in frame_set.part("test")} == {
        ("run/carl_run", "carl"),
        ("walk/carl_walk", "carl"),
    }
    assert "walk/dora_walk" not in frame_set.split.parts and len(frame_set.rows) == 6
    said = capsys.readouterr().out
    assert "left out, because not in list.csv: 1 video (first: walk/dora_walk)" in said
    assert "no frames of 1 video of list.csv (first: clips/emil_run.avi)" in said

    source = find_source(write_list(tmp_path, "\n".join(lines)), {}, ROOT, frames)  # without a split: by its groups
    frame_set = open_frames(source, SPEC)
    assert frame_set.split.name == "random" and leaking_groups(frame_set.split, frame_set.rows) == []
    assert len(frame_set.part("test")) == 2 and len({row.group for row in frame_set.part("test")}) == 1


def test_a_list_of_other_frames_is_refused(tmp_path):
    frames = make_frames_elsewhere(tmp_path / "frames", "run/a", "walk/b")
    with pytest.raises(UserError, match="None of the 2 videos that have frames is in .*first: run/a"):
        open_frames(find_source(write_list(tmp_path, "x/c.avi,run\nx/d.avi,walk\n"), {}, ROOT, frames), SPEC)
    with pytest.raises(UserError, match="lines 1 and 2: both may be the video of the frames run/a"):
        text = "x/a.avi,run\ny/a.avi,run\nx/b.avi,walk\n"
        open_frames(find_source(write_list(tmp_path, text), {}, ROOT, frames), SPEC)
    with pytest.raises(UserError, match="There is no list"):
        open_frames(find_source(str(tmp_path / "gone.csv"), {}, ROOT, frames), SPEC)


def test_a_pack_has_the_labels_groups_and_splits_that_its_list_has_now(own_list, capsys):
    source = find_source(str(own_list), {}, ROOT)
    ensure_frames(source, TOY_SIZE)
    packed = own_list.with_name("packed")
    pack(own_list.with_name("own-frames-80x60"), packed)
    text = own_list.read_text().replace("anna,train", "anna,test").replace("carl,test", "carla,train")
    own_list.write_text(text.replace("ben/walk.avi,walk,ben,val\n", ""))

    frame_set = open_frames(find_source(str(own_list), {}, ROOT, str(packed)), SPEC)
    assert sorted(row.group for row in frame_set.part("test")) == ["anna", "anna"]
    assert sorted(row.group for row in frame_set.part("train")) == ["carla", "carla"]
    assert len(frame_set.rows) == 5 and "not in own.csv: 1 video (first: ben/walk.avi)" in capsys.readouterr().out
    images = {row.video: next(iter(frame_set.read_frames(row, [0]))) for row in frame_set.rows}
    folders = open_frames(source, SPEC)
    for row in folders.rows:
        assert np.array_equal(images[row.video], next(iter(folders.read_frames(row, [0]))))


def test_frames_whose_list_is_gone_keep_its_split(tmp_path):
    lines = []
    for number, part in enumerate(("train", "val", "test", "train")):
        for label, name in enumerate(("Biking", "Diving")):
            path = f"v_{name}_g{number + 1:02d}_c01.avi"  # UCF101's names, divided in another way
            write_naming_video(tmp_path / path, 6, label)
            lines.append(f"{path},{name},,{part}")
    address = write_list(tmp_path, "\n".join(lines))
    ensure_frames(find_source(address, {}, ROOT), TOY_SIZE)
    before = open_frames(find_source(address, {}, ROOT), SPEC)
    Path(address).unlink()

    after = open_frames(find_source(address, {}, ROOT), SPEC)
    assert before.split.name == after.split.name == "given" and before.split.hash == after.split.hash
    assert [row.group for row in before.rows] == [row.group for row in after.rows]


def test_groups_given_in_mypath_after_the_extraction_hold(own_list):
    own_list.write_text("".join(f"{line.rsplit(',', 2)[0]}\n" for line in own_list.read_text().splitlines()[1:]))
    for person in ("anna", "ben", "carl"):
        for name in ("run", "walk"):
            (own_list.parent / person / f"{name}.avi").rename(own_list.parent / person / f"{person}_{name}.avi")
    own_list.write_text(re.sub(r"(\w+)/(\w+).avi", r"\1/\1_\2.avi", own_list.read_text()))
    entry = {"list": str(own_list)}
    source = find_source("own", {"own": entry}, ROOT)
    ensure_frames(source, TOY_SIZE)
    assert len({row.group for row in open_frames(source, SPEC).rows}) == 6

    source = find_source("own", {"own": entry | {"groups": "^([a-z]+)_"}}, ROOT)
    ensure_frames(source, TOY_SIZE)
    assert {row.group for row in open_frames(source, SPEC).rows} == {"anna", "ben", "carl"}


def test_names_of_numbered_classes_may_come_after_the_extraction_and_nothing_is_extracted_again(own_list, capsys):
    own_list.write_text(own_list.read_text().replace(",run,", ",0,").replace(",walk,", ",1,"))
    source = find_source(str(own_list), {}, ROOT)
    ensure_frames(source, TOY_SIZE)
    assert open_frames(source, SPEC).classes == ["0", "1"]

    own_list.with_name("classes.txt").write_text("run\nwalk\n")
    capsys.readouterr()
    ensure_frames(source, TOY_SIZE)
    assert open_frames(source, SPEC).classes == ["run", "walk"] and "Extract" not in capsys.readouterr().out


def test_files_of_one_name_in_one_class_keep_apart(own_list):
    own_list.write_text("path,label\nanna/run.avi,run\nben/run.avi,run\ncarl/walk.avi,run\n")
    rows = preprocess(find_source(str(own_list), {}, ROOT), Settings(TOY_SIZE), workers=1)

    assert len({row.folder for row in rows}) == 3 and all(row.status == "ok" for row in rows)
    assert next(row.num_frames for row in rows if row.video == "carl/walk.avi") == 7


def test_names_that_begin_with_a_hash_are_videos(tmp_path):
    """6 of 18 lines were taken for comments, without a word."""
    make_files(tmp_path, "#shorts 1.avi", "a.avi")
    address = write_list(tmp_path, "# a comment\n#shorts 1.avi,jack\na.avi,run\n")
    assert [row[:2] for row in listed(address)] == [("#shorts 1.avi", "jack"), ("a.avi", "run")]


def test_a_spreadsheets_first_line_names_the_separator(tmp_path):
    make_files(tmp_path, "a, b.avi", "c.avi")
    address = write_list(tmp_path, "sep=;\na, b.avi;run\nc.avi;walk\n")
    assert [row[:2] for row in listed(address)] == [("a, b.avi", "run"), ("c.avi", "walk")]


def test_lists_that_circulate_are_read_or_called_by_name(tmp_path):
    """Kaggle's and Keras' csv files of UCF101, Kinetics' csv, the json of 3D-ResNets."""
    make_files(tmp_path / "train", "a.avi", "b.avi")
    address = write_list(tmp_path, "clip_name,clip_path,label\na,/train/a.avi,run\nb,/train/b.avi,walk\n")
    assert [row[:2] for row in listed(address)] == [("train/a.avi", "run"), ("train/b.avi", "walk")]
    address = write_list(tmp_path, ",video_name,tag\n0,train/a.avi,run\n1,train/b.avi,walk\n")
    assert [row[:2] for row in listed(address)] == [("train/a.avi", "run"), ("train/b.avi", "walk")]
    refused = {
        ",video_name,tag\n0,a.avi,run\n": "no file a.avi.* It lies in train/: give the list with train/ before each",
        "label,youtube_id,time_start,time_end,split\nrun,abc,1,11,train\n": "list.csv lists YouTube clips .*not files",
        '{"labels": ["run"], "database": {}}\n': "list.csv is JSON",
    }
    for text, message in refused.items():
        with pytest.raises(UserError, match=message):
            listed(write_list(tmp_path, text))


def test_a_list_of_another_encoding_says_so_where_its_files_are_missing(tmp_path):
    make_files(tmp_path, "h\u00f6he.avi", "a.avi")
    (tmp_path / "list.csv").write_bytes("a.avi,run\nh\u00f6he.avi,walk\n".encode("cp1252"))
    with pytest.raises(UserError, match="line 2: there is no file .*The list is not UTF-8 .*save it as UTF-8"):
        listed(str(tmp_path / "list.csv"))


def test_accented_letters_of_a_list_and_of_a_disk_may_be_spelled_apart(tmp_path):
    make_files(tmp_path, "ho\u0308he.avi", "a.avi")
    address = write_list(tmp_path, "h\u00f6he.avi,ho\u0308he\na.avi,run\n")
    assert ("ho\u0308he.avi", "h\u00f6he") in [row[:2] for row in listed(address)]
