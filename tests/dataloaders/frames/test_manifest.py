import os
from dataclasses import replace

import pytest

from common.errors import UserError
from dataloaders.frames import manifest
from dataloaders.frames.manifest import PartialManifest, VideoRow, is_complete, read_manifest, write_manifest

ROW = VideoRow(
    video="a/x.avi",
    label="a",
    group="a/g01",
    folder="train/a/x",
    num_frames=20,
    every=1,
    quality=95,
    width=171,
    height=128,
    fps=29.97003,
    source_width=320,
    source_height=240,
    source_bytes=12345,
    status="ok",
    reason="",
    given="",
    split="1",
)
NAMES = [
    'a,b "c".avi',
    "line\nbreak.avi",
    "carriage\rreturn.avi",
    "both\r\n.avi",
    "Übung 体操 🎬.avi",
    os.fsdecode(b"caf\xe9\xff.avi"),
    "=1+2;'.avi",
    " blanks .avi",
]


def test_rows_come_back_as_they_were_whatever_the_names_are(tmp_path):
    rows = [replace(ROW, video=f"a/{name}", folder=f"train/a/{name}", reason=f"why, {name}") for name in NAMES]
    write_manifest(tmp_path, rows)

    assert read_manifest(tmp_path) == sorted(rows, key=lambda row: row.video)
    assert (tmp_path / "manifest.csv").read_bytes().startswith(b"video,class,group,folder,num_frames,every,quality,")


def test_partial_rows_come_back_as_they_were_whatever_the_names_are(tmp_path):
    rows = [replace(ROW, video=f"a/{name}") for name in NAMES]
    partial = PartialManifest(tmp_path, rows[:3])
    for row in rows[3:]:
        partial.add(row)  # flushed, not closed

    assert read_manifest(tmp_path, manifest.PARTIAL_NAME) == rows


@pytest.mark.parametrize("name", ["plain.avi", "line\nbreak.avi", 'a "quoted\n" one.avi'])
def test_a_half_written_last_row_of_a_partial_manifest_is_dropped(tmp_path, name):
    """Trap 10: interrupted preprocessing taken for complete."""
    whole = [replace(ROW, video="a/1.avi"), replace(ROW, video='a/"2\n".avi')]
    PartialManifest(tmp_path, whole).close()
    begin = (tmp_path / manifest.PARTIAL_NAME).stat().st_size
    PartialManifest(tmp_path, [*whole, replace(ROW, video=f"a/{name}")]).close()
    content = (tmp_path / manifest.PARTIAL_NAME).read_bytes()

    for end in range(begin, len(content) - 1):
        (tmp_path / manifest.PARTIAL_NAME).write_bytes(content[:end])
        assert read_manifest(tmp_path, manifest.PARTIAL_NAME) == whole, content[:end]


def test_a_partial_manifest_cut_in_its_first_line_has_no_rows(tmp_path):
    for content in (b"", b"video,cla"):
        (tmp_path / manifest.PARTIAL_NAME).write_bytes(content)
        assert read_manifest(tmp_path, manifest.PARTIAL_NAME) == []


def test_a_folder_is_complete_only_when_no_run_is_in_the_middle(tmp_path):
    """Trap 10."""
    assert not is_complete(tmp_path)
    write_manifest(tmp_path, [ROW])
    assert is_complete(tmp_path)
    PartialManifest(tmp_path, [ROW]).close()
    assert not is_complete(tmp_path)


def test_a_full_disk_leaves_the_manifest_that_was_there(tmp_path, monkeypatch):
    PartialManifest(tmp_path, [ROW]).close()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        PartialManifest(tmp_path, [])

    assert read_manifest(tmp_path, manifest.PARTIAL_NAME) == [ROW]
    assert [path.name for path in tmp_path.iterdir()] == [manifest.PARTIAL_NAME]


@pytest.mark.parametrize("line", ["a,b\n", ",".join(["x"] * 19) + "\n"])
def test_a_damaged_manifest_is_refused_with_its_line(tmp_path, line):
    write_manifest(tmp_path, [ROW])
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write(line)

    with pytest.raises(UserError, match="manifest.csv is damaged: line 3 was changed. To rebuild it, preprocess again"):
        read_manifest(tmp_path)


def test_the_manifest_of_another_version_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("video,label\na,b\n")
    with pytest.raises(UserError, match="its header line is not that of this version"):
        read_manifest(tmp_path)


def test_a_dot_in_the_name_of_a_video_is_no_ending():
    assert replace(ROW, video="a/take.1.avi").stem == "take.1"
