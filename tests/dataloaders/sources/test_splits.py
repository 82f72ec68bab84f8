import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from common.errors import UsageError, UserError
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.hmdb51 import read_hmdb51_lists
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.splits import leaking_groups, split_videos
from dataloaders.sources.ucf101 import read_ucf101_lists
from tests.helpers.toy import UCF_CLASSES


def make_source(layout: str = "folder", splits: Path | None = None, groups: str | None = None) -> DataSource:
    return DataSource("mine", Path("/videos"), Path("/frames"), layout=layout, splits=splits, groups=groups)


def make_video(source: DataSource, name: str, given: str = "") -> SourceVideo:
    label = Path(name).parent.name
    return SourceVideo(name, label, groups_of(source, [(label, Path(name).stem)])[0], given)


def ucf_videos(source: DataSource) -> list[SourceVideo]:
    """3 classes x 25 groups x 2 clips, one class with the file names that do not fit its folder."""
    return [
        make_video(source, f"{name}/v_{name.replace('stand', 'Stand')}_g{group:02d}_c{clip:02d}.avi")
        for name in UCF_CLASSES
        for group in range(1, 26)
        for clip in (1, 2)
    ]


def write_ucf_lists(folder: Path, videos: list[SourceVideo]) -> Path:
    """As the official download has them: ids from 1 in trainlist, none in testlist, lines that end in CRLF."""
    folder.mkdir(parents=True)
    for split, tested in (("1", range(1, 8)), ("2", range(8, 15)), ("3", range(15, 22))):
        train, test = [], []
        for video in videos:
            number = int(video.stem.split("_g")[1][:2])
            if number in tested:
                test.append(video.video)
            else:
                train.append(f"{video.video} {UCF_CLASSES.index(video.label) + 1}")
        (folder / f"trainlist0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in train).encode())
        (folder / f"testlist0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in test).encode())
    return folder


@pytest.mark.parametrize("val", ["auto", "none"])
@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_ucf101_by_its_rule_equals_ucf101_by_its_lists(tmp_path, split, val):
    """Trap 13: testlist files have no id, trainlist ids count from 1, lines may end in CRLF."""
    source = make_source("ucf101")
    videos = ucf_videos(source)
    lists = make_source("ucf101", write_ucf_lists(tmp_path / "lists", videos))

    by_rule, by_list = split_videos(source, videos, split, val), split_videos(lists, videos, split, val)

    assert by_rule.parts == by_list.parts
    assert by_rule.hash == by_list.hash
    assert by_rule.notes == by_list.notes == []
    assert len(by_rule.videos("test")) == 3 * 7 * 2


def test_lists_are_read_without_their_line_ends_and_ids(tmp_path):
    """Trap 13."""
    source = make_source("ucf101")
    listed = read_ucf101_lists(write_ucf_lists(tmp_path / "lists", ucf_videos(source)), "1")

    assert listed["HandstandPushups/v_HandStandPushups_g01_c01"] == "test"
    assert listed["Biking/v_Biking_g08_c02"] == "train"
    assert len(listed) == 150


@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_ucf101_validates_on_groups_23_to_25_and_tests_on_its_seven(split):
    """Trap 2: a split that divides groups."""
    source = make_source("ucf101")
    videos = ucf_videos(source)
    parts = split_videos(source, videos, split).parts
    groups = defaultdict(set)
    for video in videos:
        groups[parts[video.video]].add(int(video.group[-2:]))

    first = {"1": 1, "2": 8, "3": 15}[split]
    assert groups["test"] == set(range(first, first + 7))
    assert groups["val"] == {23, 24, 25}
    assert groups["train"] == set(range(1, 26)) - groups["test"] - groups["val"]


def test_val_none_trains_on_the_whole_list():
    source = make_source("ucf101")
    split = split_videos(source, ucf_videos(source), "1", val="none")

    assert Counter(split.parts.values()) == {"train": 3 * 18 * 2, "test": 3 * 7 * 2}


def test_ucf101_without_groups_23_to_25_still_holds_whole_groups_out():
    source = make_source("ucf101")
    videos = [video for video in ucf_videos(source) if int(video.group[-2:]) < 20]
    split = split_videos(source, videos, "1")

    assert all(count_labels(videos, split, "val").values())
    assert_whole_groups(videos, split)


def test_converted_videos_stand_in_the_lists_too(tmp_path):
    source = make_source("ucf101")
    videos = ucf_videos(source)
    lists = make_source("ucf101", write_ucf_lists(tmp_path / "lists", videos))
    converted = [make_video(source, video.video.replace(".avi", ".mp4")) for video in videos]

    parts = split_videos(lists, converted, "1").parts

    assert Counter(parts.values()) == Counter(split_videos(source, videos, "1").parts.values())


def test_a_video_in_no_list_is_unused_and_said(tmp_path):
    source = make_source("ucf101")
    videos = ucf_videos(source)
    lists = make_source("ucf101", write_ucf_lists(tmp_path / "lists", videos))
    extra = make_video(source, "Biking/v_Biking_g26_c01.avi")

    split = split_videos(lists, [*videos, extra], "1")

    assert split.parts[extra.video] == "unused"
    assert split.notes == ["Unused, because in no list: 1 video (first: Biking/v_Biking_g26_c01.avi)."]


def test_videos_that_the_lists_name_and_nobody_has_are_said(tmp_path):
    source = make_source("ucf101")
    videos = ucf_videos(source)
    lists = make_source("ucf101", write_ucf_lists(tmp_path / "lists", videos))
    gone, other_class = videos[3], videos[0].label
    assert gone.label == other_class

    notes = split_videos(lists, [video for video in videos if video is not gone], "1").notes
    key = gone.video.removesuffix(".avi")
    assert notes == [f"In the lists, but missing or unusable here: 1 video of these classes (first: {key})."]

    some = [video for video in videos if video.label != other_class]
    assert split_videos(lists, some, "1").notes == [], "classes that are left out are"


def test_lists_of_another_data_set_are_refused(tmp_path):
    source = make_source("ucf101")
    lists = make_source("ucf101", write_ucf_lists(tmp_path / "lists", ucf_videos(source)))

    with pytest.raises(UserError, match="None of the 1 video of 'mine' is in the lists"):
        split_videos(lists, [make_video(source, "Diving/v_Diving_g01_c01.avi")], "1")
    with pytest.raises(UserError, match="There is no list .*trainlist01.txt"):
        split_videos(make_source("ucf101", tmp_path), ucf_videos(source), "1")


def write_hmdb_lists(folder: Path) -> list[str]:
    """2 classes x 12 films x 3 clips; of each film's clips one is in no list of training or test."""
    folder.mkdir()
    names = []
    for label in ("wave", "sit_up"):
        lines = []
        for film in range(12):
            for clip in range(3):
                name = f"A_wave_(film)_{film}!_{label}_u_nm_np1_fr_goo_{clip}.avi"
                lines.append(f"{name} {0 if clip == 2 else 2 if film < 4 else 1} ")
                names.append(f"{label}/{name}")
        for split in "123":
            (folder / f"{label}_test_split{split}.txt").write_text("\n".join(lines) + "\n")
    return names


def test_hmdb51_reads_1_as_training_2_as_test_and_0_as_unused(tmp_path):
    names = write_hmdb_lists(tmp_path / "lists")
    source = make_source("hmdb51", tmp_path / "lists")
    videos = [make_video(source, name) for name in names]

    assert Counter(split_videos(source, videos, "2", "none").parts.values()) == {"train": 32, "test": 16, "unused": 24}
    listed = read_hmdb51_lists(tmp_path / "lists", "1")
    film = "A_wave_(film)_{}!_sit_up_u_nm_np1_fr_goo_{}"
    assert [listed[f"sit_up/{film.format(*pair)}"] for pair in ((4, 0), (3, 1), (3, 2))] == ["train", "test", "unused"]


def test_hmdb51_validation_takes_whole_films_of_each_class(tmp_path):
    names = write_hmdb_lists(tmp_path / "lists")
    source = make_source("hmdb51", tmp_path / "lists")
    videos = [make_video(source, name) for name in names]
    split = split_videos(source, videos)

    assert split.name == "1"
    assert count_labels(videos, split, "val") == {"wave": 2, "sit_up": 2}
    parts_of_group = defaultdict(set)
    for video in videos:
        parts_of_group[video.group].add(split.parts[video.video])
    assert len(parts_of_group["sit_up/A_wave_(film)_0!"]) > 0
    assert not any({"train", "val"} <= parts for parts in parts_of_group.values())


def test_hmdb51_without_lists_says_where_to_fetch_them():
    source = make_source("hmdb51")
    with pytest.raises(UserError, match="test_train_splits.rar"):
        split_videos(source, [make_video(source, "wave/A_wave_u.avi")])


def count_labels(videos, split, part) -> Counter:
    return Counter(video.label for video in videos if split.parts[video.video] == part)


def assert_whole_groups(videos, split) -> None:
    parts = defaultdict(set)
    for video in videos:
        parts[video.group].add(split.parts[video.video])
    divided = {group: its_parts for group, its_parts in parts.items() if len(its_parts) > 1}
    assert not divided


def grouped_videos(groups_of_class: dict[str, list[int]]) -> tuple[DataSource, list[SourceVideo]]:
    """{class: [clips of each of its groups]}, groups of their own in each class."""
    source = make_source(groups=r"^(.*)_c")
    return source, [
        make_video(source, f"{label}/{label}{group}_c{clip}.avi")
        for label, sizes in groups_of_class.items()
        for group, clips in enumerate(sizes)
        for clip in range(clips)
    ]


def test_random_takes_whole_groups_about_70_15_15_per_class():
    """Trap 2: a random split over videos puts clips of one recording into training and test."""
    rng = random.Random(1)
    source, videos = grouped_videos({name: [rng.randint(3, 7) for _ in range(25)] for name in ("a", "b", "c", "d")})
    split = split_videos(source, videos)

    assert split.name == "random"
    assert_whole_groups(videos, split)
    totals = Counter(video.label for video in videos)
    for part, wanted in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        counts = count_labels(videos, split, part)
        assert all(abs(counts[label] / totals[label] - wanted) < 0.04 for label in totals), (part, counts, totals)


def test_random_keeps_a_subject_of_all_classes_in_one_part():
    """Nine people who each perform ten actions, as in Weizmann's data set."""
    source = make_source(groups=r"^([a-z]+)_")
    people = "daria denis eli ido ira lena lyova moshe shahar".split()
    actions = "bend jack jump pjump run side skip walk wave1 wave2".split()
    videos = [make_video(source, f"{action}/{person}_{action}.avi") for action in actions for person in people]
    split = split_videos(source, videos)

    assert_whole_groups(videos, split)
    assert len({video.group for video in videos}) == 9
    assert {part: set(count_labels(videos, split, part).values()) for part in ("train", "val", "test")} == {
        "train": {7},
        "val": {1},
        "test": {1},
    }


@pytest.mark.parametrize(("num_groups", "parts"), [(1, [4, 0, 0]), (2, [4, 0, 4]), (3, [4, 4, 4])])
def test_a_class_of_few_groups_trains_first_then_tests_then_validates(num_groups, parts):
    source, videos = grouped_videos({"tiny": [4] * num_groups, "large": [4] * 25})
    split = split_videos(source, videos)

    assert [count_labels(videos, split, part)["tiny"] for part in ("train", "val", "test")] == parts
    assert_whole_groups(videos, split)


def test_one_giant_group_stays_in_training():
    source, videos = grouped_videos({"a": [90, 5, 5, 5, 5]})
    split = split_videos(source, videos)

    assert split.parts["a/a0_c0.avi"] == "train"
    assert count_labels(videos, split, "test") and count_labels(videos, split, "val")


def test_random_does_not_depend_on_the_order_of_the_videos():
    source, videos = grouped_videos({name: [3] * 12 for name in ("a", "b", "c")})
    shuffled = random.Random(0).sample(videos, len(videos))

    assert split_videos(source, videos).parts == split_videos(source, shuffled).parts
    assert split_videos(source, videos).hash == split_videos(source, shuffled).hash


def test_the_hash_tells_who_is_where():
    source, videos = grouped_videos({"a": [3] * 12})

    assert split_videos(source, videos, val="none").hash != split_videos(source, videos).hash
    assert split_videos(source, videos[:-1]).hash != split_videos(source, videos).hash


def test_given_folders_are_kept_and_lack_only_validation():
    source = make_source()
    videos = [make_video(source, f"{part}/a/{part}{n}.avi", part) for part in ("train", "test") for n in range(20)]
    split = split_videos(source, videos)

    assert split.name == "given"
    assert set(split.videos("test")) == {video.video for video in videos if video.given == "test"}
    assert len(split.videos("val")) == 3
    assert all(video.startswith("train/") for video in split.videos("val"))


def test_divided_folders_of_ucf101_have_its_split_1_and_it_is_said():
    source = make_source("ucf101")
    videos = [
        make_video(source, f"{part}/Biking/v_Biking_g{group:02d}_c01.avi", part)
        for part, groups in (("train", range(1, 20)), ("test", range(20, 26)))
        for group in groups
    ]
    split = split_videos(source, videos)
    assert split.name == "1" and split.videos("test")[0] == "train/Biking/v_Biking_g01_c01.avi"
    assert len(split.notes) == 1 and "of ucf101, so its split 1 is used. --split given" in split.notes[0]
    assert split_videos(source, videos, "1").notes == []
    given = split_videos(source, videos, "given")
    assert given.notes == [] and all(video.startswith("test/") for video in given.videos("test"))


@pytest.mark.parametrize(
    ("layout", "name", "line"),
    [
        ("ucf101", "trainlist01.txt", "v_Biking_g08_c01.avi 11"),
        ("ucf101", "testlist01.txt", "test/Biking/v_Biking_g01_c01.avi"),
        ("hmdb51", "wave_test_split1.txt", "x_wave_u_nm_np1_fr_goo_0.avi 3"),
        ("hmdb51", "wave_test_split1.txt", "x_wave_u_nm_np1_fr_goo_0.avi"),
    ],
)
def test_a_line_that_is_not_one_of_the_official_lists_is_named(tmp_path, layout, name, line):
    for file in ("trainlist01.txt", "testlist01.txt"):
        (tmp_path / file).write_text("Biking/v_Biking_g09_c01.avi 11\r\n")
    with (tmp_path / name).open("a") as file:
        file.write(line + "\r\n")
    read = {"ucf101": read_ucf101_lists, "hmdb51": read_hmdb51_lists}[layout]
    with pytest.raises(UserError, match=f"{name}: '{re.escape(line)}' is not a line of"):
        read(tmp_path, "1")


def test_given_validation_is_used_as_it_is_and_val_none_trains_on_it():
    source = make_source()
    videos = [make_video(source, f"{part}/a/{part}{n}.avi", part) for part in ("train", "val", "test") for n in "12"]

    assert split_videos(source, videos).parts == {video.video: video.given for video in videos}
    assert Counter(split_videos(source, videos, val="none").parts.values()) == {"train": 4, "test": 2}


@pytest.mark.parametrize(("split", "message"), [("1", "official split \\(hmdb51, ucf101\\)"), ("given", "no train/")])
def test_a_split_that_the_data_set_does_not_have_is_a_usage_error(split, message):
    source, videos = grouped_videos({"a": [3] * 12})
    with pytest.raises(UsageError, match=message):
        split_videos(source, videos, split)


def test_leaking_groups_names_recordings_in_more_than_one_part():
    source = make_source(groups=r"^(.*)_c")
    names = ["train/a/x_c1.avi", "test/a/x_c2.avi", "train/a/y_c1.avi", "val/a/y_c2.avi", "test/a/z_c1.avi"]
    videos = [make_video(source, name, name.split("/")[0]) for name in names]
    split = split_videos(source, videos, "given")

    assert leaking_groups(split, videos) == ["x", "y"]


def test_no_group_leaks_where_the_split_is_drawn():
    source, videos = grouped_videos({"a": [3] * 12, "b": [2] * 9})

    assert leaking_groups(split_videos(source, videos), videos) == []


def test_a_byte_order_mark_in_the_official_lists_loses_no_line(tmp_path):
    source = make_source("ucf101")
    videos = ucf_videos(source)
    lists = write_ucf_lists(tmp_path / "lists", videos)
    plain = split_videos(make_source("ucf101", lists), videos, "1").hash
    for path in lists.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert split_videos(make_source("ucf101", lists), videos, "1").hash == plain


# --- folds


def folds(videos: list[SourceVideo], number: int) -> list[set[str]]:
    source = make_source()
    return [
        set(split_videos(source, videos, f"fold-{fold}-of-{number}").videos("test")) for fold in range(1, number + 1)
    ]


@pytest.mark.parametrize("number", [2, 3, 5, 25, 75])
def test_each_video_is_tested_in_one_fold_and_no_recording_is_divided(number):
    videos = ucf_videos(make_source("ucf101"))
    tested = folds(videos, number)
    assert sorted(name for fold in tested for name in fold) == sorted(video.video for video in videos)
    assert all(tested)
    for fold in range(1, number + 1):
        split = split_videos(make_source("ucf101"), videos, f"fold-{fold}-of-{number}")
        assert leaking_groups(split, videos) == []
        labels = {video.label for video in videos}
        assert {video.label for video in videos if split.parts[video.video] == "train"} == labels
        assert split.videos("val") and not split_videos(
            make_source("ucf101"), videos, f"fold-{fold}-of-{number}", "none"
        ).videos("val")


@pytest.mark.parametrize("number", [2, 5])
def test_classes_are_spread_evenly_over_the_folds(number):
    videos = ucf_videos(make_source("ucf101"))
    label_of = {video.video: video.label for video in videos}
    for fold in folds(videos, number):
        of_class = Counter(label_of[name] for name in fold)
        assert all(abs(of_class[label] - 50 / number) <= 2 for label in UCF_CLASSES)


def test_with_as_many_folds_as_subjects_each_is_left_out_once():
    """Nine people who do all three actions, one of them not all, and the last one more often."""
    videos = [
        SourceVideo(f"{label}/{person}_{take}.avi", label, person, "")
        for person in "abcdefghi"
        for label in ("bend", "jump", "run")
        for take in range(3 if person == "i" else 1)
        if (person, label) != ("b", "run")
    ]
    tested = folds(videos, 9)
    assert [{Path(name).stem[0] for name in fold} for fold in tested] == [{person} for person in "abcdefghi"]


def test_a_class_of_two_recordings_is_never_tested_as_a_whole():
    videos = [SourceVideo(f"rare/{name}.avi", "rare", name, "") for name in ("p", "q")]
    videos += [
        SourceVideo(f"often/{name}{take}.avi", "often", name, "") for name in ("p", "q", "r", "s") for take in (1, 2)
    ]
    for fold in folds(videos, 2):
        assert sum(name.startswith("rare") for name in fold) == 1


def test_a_class_is_never_tested_as_a_whole_even_if_its_recordings_fit_best_together():
    """p and q alone have the rare class; q's other videos are of the class that the fold without p is full of."""
    contents = {"x": {"b": 10}, "p": {"rare": 1, "a": 8}, "q": {"rare": 1, "b": 5}, "z": {"b": 3}, "y": {"a": 2}}
    videos = [
        SourceVideo(f"{label}/{person}{take}.avi", label, person, "")
        for person, labels in contents.items()
        for label, number in labels.items()
        for take in range(number)
    ]
    for fold in folds(videos, 2):
        assert sum(name.startswith("rare") for name in fold) == 1


def test_folds_that_would_leave_a_class_without_training_are_said():
    """p and q share one class, q and r another, and r and p a third: of two folds, one has all of a class."""
    labels = {"p": "ac", "q": "ab", "r": "bc"}
    videos = [
        SourceVideo(f"{name}/{person}.avi", name, person, "") for person, names in labels.items() for name in names
    ]
    with pytest.raises(
        UserError, match="2 folds cannot be made: one would test all recordings of .*, and none .* another number"
    ):
        folds(videos, 2)
    assert len(folds(videos, 3)) == 3


@pytest.mark.parametrize("base", ["1", "random", "fold-2-of-5"])
def test_shares_of_the_training_recordings_are_nested(base):
    source = make_source("ucf101")
    videos = ucf_videos(source)
    whole, group_of = split_videos(source, videos, base), {video.video: video.group for video in videos}

    def trained(share: int, draw: int = 0) -> set[str]:
        split = split_videos(source, videos, f"{base}-train-{share}-of-8-draw-{draw}")
        assert all(split.videos(part) == whole.videos(part) for part in ("val", "test"))
        assert {*split.videos("train"), *split.videos("unused")} >= set(whole.videos("train"))
        return {group_of[name] for name in split.videos("train")}

    shares = [trained(share) for share in (1, 2, 4, 8)]
    everyone = {group_of[name] for name in whole.videos("train")}
    assert shares[0] < shares[1] < shares[2] < shares[3] == everyone
    assert [round(8 * len(groups) / len(everyone)) for groups in shares] == [1, 2, 4, 8]
    assert {group.split("/")[0] for group in shares[0]} == set(UCF_CLASSES)
    assert trained(2, draw=1) != shares[1]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("1-train-9-of-8-draw-0", "the shares are counted from 1 to 8"),
        ("fold-6-of-5", "counted from 1 to 5"),
        ("fold-1-of-1", "1 fold of 75 recordings: there can be 2 folds, and at most one for each recording"),
        ("fold-1-of-76", "76 folds of 75 recordings"),
    ],
)
def test_folds_that_cannot_be_are_said(split, message):
    source = make_source("ucf101")
    with pytest.raises(UserError, match=message):
        split_videos(source, ucf_videos(source), split)


def test_a_class_with_one_recording_cannot_be_cross_validated():
    source = make_source()
    videos = [make_video(source, f"{label}/{name}.avi") for label in ("a", "b") for name in ("x", "y")]
    videos += [make_video(source, "c/z.avi"), make_video(source, "d/z.avi")]
    with pytest.raises(UserError, match=r"c \(and 1 other class\) has videos of one recording alone"):
        split_videos(source, videos, "fold-1-of-2")
