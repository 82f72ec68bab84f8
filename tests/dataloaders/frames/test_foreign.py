"""Frames made elsewhere: which trees of them are understood, and what is said of the others."""

import cv2
import pytest

from common.errors import UserError
from dataloaders.frames.foreign import index_frames
from tests.helpers.toy import frame_naming, frames_of

NAMINGS = {
    "00001.jpg": lambda number: f"{number:05d}.jpg",
    "image_00001.jpg": lambda number: f"image_{number:05d}.jpg",
    "img_00001.jpg": lambda number: f"img_{number:05d}.jpg",
    "frame1.jpg": lambda number: f"frame{number}.jpg",
    "frame_0001.jpeg": lambda number: f"frame_{number:04d}.jpeg",
    "0000{i}.jpg": lambda number: f"0000{number}.jpg",
    "1.JPG": lambda number: f"{number}.JPG",
    "img-001.png": lambda number: f"img-{number:03d}.png",
    "thumb0001.jpg": lambda number: f"thumb{number:04d}.jpg",
}


def write_tree(folder, name, numbers, size=(80, 60)):
    """A folder of frames in which file number n, from the first on, shows frame 0, 1, 2 ..."""
    folder.mkdir(parents=True)
    for index, number in enumerate(numbers):
        cv2.imwrite(
            str(folder / name(number)), frame_naming(index, size=size)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
        )


def read_tree(frames, row):
    pictures = [cv2.imread(str(frames / row.folder / row.frame_name(i))) for i in range(row.num_frames)]
    return frames_of(picture[..., ::-1] for picture in pictures)


@pytest.mark.parametrize("first", [0, 1, 7])
@pytest.mark.parametrize("name", NAMINGS.values(), ids=NAMINGS)
def test_frames_made_elsewhere_come_in_the_order_of_their_numbers(tmp_path, name, first):
    """Trap 1: frames named 0000{i}.jpg and sorted as strings: 0, 1, 10, 11, ..., 2."""
    write_tree(tmp_path / "run" / "clip", name, range(first, first + 23))

    (row,) = index_frames(tmp_path)

    assert (row.num_frames, row.first, row.width, row.height, row.status) == (23, first, 80, 60, "ok")
    assert read_tree(tmp_path, row) == list(range(23))


def test_a_gap_in_the_frames_is_an_error_that_names_the_video(tmp_path):
    write_tree(tmp_path / "run" / "whole", NAMINGS["00001.jpg"], range(1, 9))
    write_tree(tmp_path / "run" / "holed", NAMINGS["00001.jpg"], [1, 2, 3, 5, 6])

    with pytest.raises(UserError, match="run/holed lacks frame 4: it has 5 frames up to number 6"):
        index_frames(tmp_path)


def test_a_folder_without_frames_and_an_empty_tree_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"has no frames\. The expected layout"):
        index_frames(tmp_path)
    (tmp_path / "run" / "clip").mkdir(parents=True)
    (tmp_path / "run" / "clip" / "notes.txt").touch()
    with pytest.raises(UserError, match="run/clip has no frames named like"):
        index_frames(tmp_path)


def test_what_would_be_left_out_of_a_tree_is_an_error(tmp_path):
    write_tree(tmp_path / "run" / "clip", NAMINGS["img_00001.jpg"], range(1, 9))
    write_tree(tmp_path / "run" / "flow", NAMINGS["img_00001.jpg"], range(1, 4))
    (tmp_path / "run" / "flow" / "flow_x_00001.jpg").touch()  # optical flow beside the frames, as many trees have it
    assert [row.num_frames for row in index_frames(tmp_path)] == [8, 3]

    (tmp_path / "run" / "clip" / "00001.jpg").touch()
    with pytest.raises(
        UserError, match="run/clip has more than one series of frames .from 00001.jpg and img_00001.jpg"
    ):
        index_frames(tmp_path)
    (tmp_path / "run" / "clip" / "00001.jpg").rename(tmp_path / "run" / "clip" / "img_1.jpg")
    with pytest.raises(UserError, match="run/clip has one frame twice: img_00001.jpg and img_1.jpg"):
        index_frames(tmp_path)
    (tmp_path / "run" / "clip" / "img_1.jpg").unlink()
    (tmp_path / "walk").mkdir()
    with pytest.raises(UserError, match="walk has no folders of frames"):
        index_frames(tmp_path)
    (tmp_path / "walk").rmdir()
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").touch()
    assert len(index_frames(tmp_path)) == 2


def test_a_tree_without_classes_is_told_what_it_lacks(tmp_path):
    write_tree(tmp_path / "v_Biking_g01_c01", NAMINGS["frame1.jpg"], range(1, 4))

    with pytest.raises(
        UserError, match=r"v_Biking_g01_c01 has frames instead of folders.*The layout is .*/<class>/<video>/"
    ):
        index_frames(tmp_path)


def test_divided_trees_give_each_video_its_part_even_where_names_are_equal(tmp_path):
    for part in ("train", "test"):
        write_tree(tmp_path / part / "run" / "001", NAMINGS["00001.jpg"], range(1, 3))
    (tmp_path / "train" / "run" / ".ipynb_checkpoints").mkdir()

    rows = index_frames(tmp_path)

    assert {row.folder: row.given for row in rows} == {"train/run/001": "train", "test/run/001": "test"}
    assert len({row.video for row in rows}) == 2
    assert {row.label for row in rows} == {"run"}


@pytest.mark.parametrize(
    ("name", "stem"), [("take.1", "take.1"), ("v_Run_g01_c01", "v_Run_g01_c01"), ("v_Run_g01_c01.avi", "v_Run_g01_c01")]
)
def test_dots_in_the_folder_name_of_frames_made_elsewhere_are_kept(tmp_path, name, stem):
    """Trap 9: names with dots collide."""
    write_tree(tmp_path / "run" / name, NAMINGS["00001.jpg"], range(1, 3))

    assert index_frames(tmp_path)[0].stem == stem
