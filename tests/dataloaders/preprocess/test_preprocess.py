import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from dataloaders.frames.manifest import NAME, PARTIAL_NAME, DamagedManifest, is_complete, read_manifest
from dataloaders.frames.settings import Settings
from dataloaders.preprocess import run as module
from dataloaders.preprocess import worker as extractor_module
from dataloaders.preprocess.__main__ import main
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.locks import only_one_run
from dataloaders.preprocess.run import preprocess
from dataloaders.preprocess.worker import Extractor, Limits
from dataloaders.sources.data_source import DataSource
from tests.helpers.preprocess import STARTED, contents, make_source, mounted, run_cli, start_cli
from tests.helpers.toy import (
    CLASSES,
    TOY_SIZE,
    frames_of,
    make_toy_videos,
    read_naming,
    write_naming_video,
    write_video,
)

SMALL = Settings(TOY_SIZE)


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    yield
    while STARTED:
        with STARTED.pop() as process:  # closes its pipes
            process.kill()


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_every_frame_is_there_in_order_at_its_size_and_the_manifest_tells(toy_source, toy_frames):
    """Traps 1 and 10: frames out of order; the header's frame count trusted."""
    rows = read_manifest(toy_frames)

    assert [row.video for row in rows] == sorted(
        path.relative_to(toy_source.videos).as_posix() for path in toy_source.videos.rglob("*.avi")
    )
    for row in rows:
        folder = toy_frames / row.folder
        pictures = [cv2.imread(str(folder / f"{number:05d}.jpg"))[..., ::-1] for number in range(1, 21)]
        assert len(list(folder.iterdir())) == row.num_frames == 20
        assert {picture.shape for picture in pictures} == {(60, 80, 3)}
        assert frames_of(pictures) == list(range(20))
        assert {read_naming(picture).label for picture in pictures} == {CLASSES.index(row.label)}
        assert (row.width, row.height, row.source_width, row.source_height, row.fps) == (80, 60, 160, 120, 25.0)
        assert (row.status, row.reason, row.every, row.quality, row.split) == ("ok", "", 1, 95, "1")
        assert row.source_bytes == (toy_source.videos / row.video).stat().st_size


def test_folders_show_the_split(toy_frames):
    shown = {row.group: row.folder.split("/")[0] for row in read_manifest(toy_frames)}

    assert {group[-2:]: part for group, part in shown.items()} == {
        "01": "test",
        "08": "train",
        "09": "train",
        "23": "val",
    }


def test_one_worker_and_two_make_the_same_tree(toy_source, toy_frames, tmp_path):
    alone = DataSource("toy", toy_source.videos, tmp_path / "frames", layout="ucf101", frames_given=True)
    preprocess(alone, SMALL, workers=1)

    assert contents(alone.frames) == contents(toy_frames)


def test_every_second_frame_is_kept_where_that_is_asked_for(two_videos):
    rows = preprocess(two_videos, Settings(TOY_SIZE, every=2))
    folder = two_videos.frames_for(TOY_SIZE) / rows[1].folder

    assert [(row.num_frames, row.every) for row in rows] == [(3, 2), (4, 2)]
    assert frames_of(cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())) == [0, 2, 4, 6]


def test_the_second_run_does_nothing_and_says_so(two_videos):
    args = ("--dataset", two_videos.videos, "--size", "80x60", "--workers", "1")
    status, output, errors = run_cli(*args)
    assert (status, errors) == (0, "")
    assert output.startswith("Extracted 2 videos, 14 frames, ")
    before = contents(two_videos.frames_for(TOY_SIZE))

    status, output, errors = run_cli(*args)

    assert (status, errors) == (0, "")
    assert output == f"Nothing to do: 2 videos extracted in {two_videos.frames_for(TOY_SIZE)}.\n"
    assert contents(two_videos.frames_for(TOY_SIZE)) == before


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_tree_of_an_undisturbed_run(toy_videos, tmp_path):
    """Trap 10: interrupted preprocessing taken for complete."""
    args = ("--dataset", toy_videos, "--size", "400x300", "--workers", "1", "--frames")
    assert run_cli(*args, tmp_path / "whole")[0] == 0
    frames = tmp_path / "killed"

    for rows_until_the_end in (0, 4, 12):  # killed three times: at once, early, in the middle
        process = start_cli(*args, frames)
        partial = frames / PARTIAL_NAME
        wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") > rows_until_the_end)  # noqa: B023
        process.kill()
        process.communicate()

        assert not is_complete(frames)
        rows = read_manifest(frames, PARTIAL_NAME)
        assert rows_until_the_end <= len(rows) < 24
        for row in rows:
            assert len(list((frames / row.folder).iterdir())) == 20
        folders = [path for path in frames.glob("*/*/*") if ".partial" not in path.parts]
        assert all(len(list(folder.iterdir())) == 20 for folder in folders)  # whole or not at all

    assert run_cli(*args, frames)[0] == 0
    assert contents(frames) == contents(tmp_path / "whole")
    assert not (frames / ".partial").exists()


def test_what_cannot_be_used_is_refused_once_with_its_reason(two_videos, capsys, monkeypatch):
    """Traps 10 and 12: an unreadable video leaves an empty folder that crashes training; or is replaced in silence."""
    run = two_videos.videos / "run"
    (run / "text.avi").write_text("not a video\n" * 50)
    (run / "empty.avi").touch()
    (run / "gone.avi").symlink_to("nowhere.avi")
    (run / os.fsdecode(b"caf\xe9.avi")).write_text("no")
    write_naming_video(run / "one.avi", 1)
    whole = write_naming_video(run / "cut.avi", 40)
    whole.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])

    rows = {row.video: row for row in preprocess(two_videos, SMALL)}
    output = capsys.readouterr().out

    reasons = {
        "run/empty.avi": "the file is empty (0 bytes)",
        "run/gone.avi": "it is a broken link",
        "run/one.avi": "it has only 1 frame, and a single picture shows no action",
        "run/text.avi": "it cannot be opened as a video",
        os.fsdecode(b"run/caf\xe9.avi"): "it cannot be opened as a video",
    }
    assert {row.video: row.reason for row in rows.values() if row.status == "refused"} == reasons
    assert "5 files refused:\n" in output
    for name, reason in reasons.items():
        printable = name.replace("\udce9", r"\xe9")
        assert f"  {printable}: {reason}\n" in output
    assert rows["run/cut.avi"].reason == "damaged in 1 place: frames there are missing or corrupted"
    assert "1 video used despite damage:\n  run/cut.avi: damaged in 1 place" in output
    frames = two_videos.frames_for(TOY_SIZE)
    assert {path.name for path in frames.glob("*/*/*")} == {"a", "b", "cut"}
    assert read_manifest(frames) == sorted(rows.values(), key=lambda row: row.video)

    monkeypatch.setattr(module, "extract_all", None)  # the second run reads none of them again
    preprocess(two_videos, SMALL)
    assert f"Nothing to do: 3 videos extracted in {frames} (5 refused, see {frames / NAME})." in capsys.readouterr().out


def test_nothing_but_refused_files_is_a_failure_and_a_class_of_them_is_named(two_videos, tmp_path, capsys):
    (two_videos.videos / "walk" / "b.avi").write_text("x")
    preprocess(two_videos, SMALL)
    assert "Class walk has no video that can be used." in capsys.readouterr().out

    (tmp_path / "bad" / "run").mkdir(parents=True)
    (tmp_path / "bad" / "run" / "a.avi").write_text("x")
    with pytest.raises(UserError, match="None of the 1 file can be used"):
        preprocess(make_source(tmp_path / "bad"), SMALL)


@pytest.mark.parametrize("settings", [Settings((64, 48)), Settings(TOY_SIZE, every=2), Settings(TOY_SIZE, quality=80)])
def test_other_settings_into_the_same_folder_are_refused(toy_source, toy_frames, settings):
    source = DataSource("toy", toy_source.videos, toy_frames, layout="ucf101", frames_given=True)
    before = contents(toy_frames)

    with pytest.raises(UserError, match="has frames at 80x60, every 1, quality 95, not at"):
        preprocess(source, settings)
    assert contents(toy_frames) == before


def test_a_folder_with_other_things_in_it_is_left_alone(two_videos):
    frames = two_videos.frames_for(TOY_SIZE)
    frames.mkdir()
    (frames / "thesis.tex").write_text("years of work")

    with pytest.raises(UserError, match="has files that preprocessing did not write"):
        preprocess(two_videos, SMALL)
    assert (frames / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_a_second_run_at_the_same_time_waits_and_is_told_who_runs(two_videos, capfd):
    frames = two_videos.frames_for(TOY_SIZE)
    frames.mkdir()
    process = None
    with only_one_run(frames):
        refused = pytest.raises(UserError, match=rf"process {os.getpid()} on .* is writing into .* Wait until it is")
        with refused, only_one_run(frames):
            pass
        process = start_cli("--dataset", two_videos.videos, "--size", "80x60", "--workers", "1")
        said = process.stdout.readline()
        assert said.startswith(f"process {os.getpid()} on ") and said.endswith("Ctrl-C ends the waiting.\n")
        assert list(frames.glob("*/")) == []
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Extracted 2 videos" in output
    assert "Nothing to do" in run_cli("--dataset", two_videos.videos, "--size", "80x60")[1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_has_a_file_for_one(two_videos, monkeypatch, capsys, number):
    """NFS without lockd, some FUSE."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    frames = two_videos.frames_for(TOY_SIZE)
    frames.mkdir()
    with only_one_run(frames):
        assert "has no file locks. The file .lock-file stands for one." in capsys.readouterr().out
        refused = pytest.raises(UserError, match=r"is writing into .*If it has ended, delete .*\.lock-file")
        with refused, only_one_run(frames):
            pass
    assert len(preprocess(two_videos, SMALL)) == 2
    assert not (frames / ".lock-file").exists()


@pytest.mark.slow
def test_a_full_disk_ends_it_in_one_line_and_keeps_what_is_whole(toy_videos, toy_frames, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=1200k"):
        args = ("--dataset", toy_videos, "--size", "80x60", "--workers", "2", "--frames", disk / "frames")
        kept = []
        for _ in range(2):  # the second time there is no more room than before
            status, _, errors = run_cli(*args)
            assert status == 1
            assert errors.startswith(
                f"The disk of {disk / 'frames'} is full. Extracted videos are kept: free some space"
            )
            assert errors.count("\n") == 1
            kept.append(len(read_manifest(disk / "frames", PARTIAL_NAME)))
            assert not (disk / "frames" / ".partial").exists()
        assert 0 < kept[0] <= kept[1] < 24

        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        status, output, _ = run_cli(*args)
        assert status == 0 and f"Extracted {24 - kept[1]} videos" in output
        assert contents(disk / "frames") == contents(toy_frames)


def test_the_space_still_needed_is_that_of_the_videos_still_to_do(tmp_path):
    full = OSError(28, "No space left on device")

    assert "(about 6 MB more)" in str(module._explain(full, tmp_path, num_todo=10, num_done=4, num_bytes=4_000_000))
    assert "MB" not in str(module._explain(full, tmp_path, num_todo=10, num_done=0, num_bytes=0))


def test_a_disk_that_cannot_be_written_ends_it_in_one_line(toy_videos, tmp_path):
    with mounted(tmp_path / "disk", "ro,size=1m"):
        status, output, errors = run_cli("--dataset", toy_videos, "--frames", tmp_path / "disk" / "frames")

    assert (status, output) == (1, "")
    assert errors.startswith("Read-only file system: ") and errors.count("\n") == 1


def test_a_video_added_later_is_extracted_alone(two_videos, capsys):
    preprocess(two_videos, SMALL)
    frames = two_videos.frames_for(TOY_SIZE)
    before = contents(frames)
    write_naming_video(two_videos.videos / "run" / "c.avi", 5)
    capsys.readouterr()

    rows = preprocess(two_videos, SMALL)

    assert capsys.readouterr().out.startswith("Extracted 1 video, 5 frames, ")
    assert [row.video for row in rows] == ["run/a.avi", "run/c.avi", "walk/b.avi"]
    assert {name: content for name, content in contents(frames).items() if name in before and name != NAME} == {
        name: content for name, content in before.items() if name != NAME
    }


def test_a_video_that_changed_is_extracted_again(two_videos):
    preprocess(two_videos, SMALL)
    write_naming_video(two_videos.videos / "run" / "a.avi", 3)

    assert [row.num_frames for row in preprocess(two_videos, SMALL)] == [3, 8]
    assert len(list((two_videos.frames_for(TOY_SIZE)).glob("*/run/a/*.jpg"))) == 3


def test_a_video_without_its_row_is_extracted_again(two_videos):
    """What the error about a damaged frame advises."""
    preprocess(two_videos, SMALL)
    frames = two_videos.frames_for(TOY_SIZE)
    before = contents(frames)
    (frames / "train/walk/b/00003.jpg").write_bytes(b"")
    lines = (frames / NAME).read_text().splitlines(keepends=True)
    (frames / NAME).write_text("".join(line for line in lines if not line.startswith("walk/b")))

    preprocess(two_videos, SMALL)

    assert contents(frames) == before


def test_a_video_that_is_gone_leaves_the_manifest_aloud(two_videos, capsys):
    preprocess(two_videos, SMALL)
    write_naming_video(two_videos.videos / "run" / "c.avi", 5)
    (two_videos.videos / "run" / "a.avi").rename(two_videos.videos / "walk" / "a.avi")  # it was in the wrong class

    rows = preprocess(two_videos, SMALL)

    assert [(row.video, row.label) for row in rows] == [
        ("run/c.avi", "run"),
        ("walk/a.avi", "walk"),
        ("walk/b.avi", "walk"),
    ]
    assert "removed from the manifest: 1 video (first: run/a.avi)" in capsys.readouterr().out


def test_a_video_converted_to_another_format_is_not_there_twice(two_videos):
    preprocess(two_videos, SMALL)
    (two_videos.videos / "run" / "a.avi").unlink()
    write_naming_video(two_videos.videos / "run" / "a.mp4", 4, codec="libx264")

    rows = preprocess(two_videos, SMALL)

    assert [(row.video, row.num_frames) for row in rows] == [("run/a.mp4", 4), ("walk/b.avi", 8)]
    assert len(list((two_videos.frames_for(TOY_SIZE) / rows[0].folder).iterdir())) == 4


def test_one_name_with_two_endings_has_two_folders(two_videos):
    """Trap 9: names that collide."""
    write_naming_video(two_videos.videos / "run" / "a.mp4", 4, codec="libx264")
    write_naming_video(two_videos.videos / "run" / "a.b.avi", 5)

    rows = preprocess(two_videos, SMALL)

    assert [(Path(row.folder).name, row.num_frames) for row in rows] == [
        ("a.avi", 6),
        ("a.b", 5),
        ("a.mp4", 4),
        ("b", 8),
    ]


def test_another_split_moves_no_folder(toy_source, toy_frames, capsys):
    before = contents(toy_frames)

    preprocess(toy_source, SMALL, split="2")

    output = capsys.readouterr().out
    assert "The folders stay arranged by split 1. Training on split 2 reads its videos from the manifest" in output
    assert contents(toy_frames) == before


def test_a_video_added_under_another_split_goes_where_the_folders_first_split_has_it(tmp_path):
    videos = make_toy_videos(tmp_path / "videos", classes=["Biking"], groups=[8, 9], clips=1, num_frames=4)
    source = make_source(videos)
    preprocess(source, SMALL, split="1")
    write_naming_video(videos / "Biking" / "v_Biking_g10_c01.avi", 4)  # training in split 1, test in split 2

    rows = preprocess(source, SMALL, split="2")

    assert {row.split for row in rows} == {"1"}
    assert rows[-1].folder == "train/Biking/v_Biking_g10_c01"


def test_a_frame_lost_in_the_middle_is_made_again(two_videos, capsys):
    preprocess(two_videos, SMALL)
    lost = two_videos.frames_for(TOY_SIZE) / "train" / "run" / "a" / "00003.jpg"
    content = lost.read_bytes()
    lost.unlink()
    capsys.readouterr()
    preprocess(two_videos, SMALL)
    assert lost.read_bytes() == content
    assert "Frames differ from the manifest, and are extracted again: 1 video" in capsys.readouterr().out


@pytest.fixture
def stuck(two_videos) -> Iterator[DataSource]:
    """A third video that no worker comes to the end of: a pipe into which nobody writes."""
    if not sys.platform.startswith("linux"):
        pytest.skip("pipes are opened for reading and writing, and children looked up, as on Linux")
    pipe = two_videos.videos / "run" / "stuck.avi"
    os.mkfifo(pipe)
    holder = os.open(pipe, os.O_RDWR)
    yield two_videos
    os.close(holder)  # its readers see the end


def workers_of(process: subprocess.Popen) -> list[Path]:
    """/proc entries of its child processes."""
    lists = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return [Path("/proc") / child for children in lists for child in children.split()]


def test_a_worker_that_dies_means_a_refused_video_and_not_a_hang(stuck, monkeypatch, capsys):
    class Mortal(Extractor):
        def extract(self, **job):
            if job["video"].name == "stuck.avi":
                if self.worker.process is None:
                    self.worker.start()
                threading.Timer(0.2, self.worker.process.kill).start()
            return super().extract(**job)

    monkeypatch.setattr(extractor_module, "Extractor", Mortal)
    rows = {row.video: row for row in preprocess(stuck, SMALL, workers=1)}

    assert rows["run/stuck.avi"].reason == "the decoder crashed on it (SIGKILL)"
    assert [row.num_frames for row in rows.values() if row.status == "ok"] == [6, 8]
    assert "run/stuck.avi: the decoder crashed on it (SIGKILL)" in capsys.readouterr().out
    assert not list(stuck.frames_for(TOY_SIZE).glob("*/run/stuck*"))


def test_a_worker_that_dies_between_two_videos_costs_neither(two_videos, tmp_path):
    extractor = Extractor()
    job = {"size": TOY_SIZE, "every": 1, "quality": 95}
    first = extractor.extract(video=two_videos.videos / "run/a.avi", folder=tmp_path / "1", **job)
    extractor.worker.process.kill()
    extractor.worker.process.wait()
    second = extractor.extract(video=two_videos.videos / "walk/b.avi", folder=tmp_path / "2", **job)
    extractor.close()

    assert (first.num_frames, second.num_frames) == (6, 8)


def test_a_worker_that_dies_with_the_next_video_begun_costs_neither(two_videos, tmp_path):
    extractor = Extractor()
    how = {"known": None, "size": TOY_SIZE, "every": 1, "quality": 95}
    following = {"video": two_videos.videos / "walk/b.avi", "folder": tmp_path / "2", **how}
    first = extractor.extract(two_videos.videos / "run/a.avi", tmp_path / "1", following=following, **how)
    wait_until((tmp_path / "2/00001.jpg").exists)
    extractor.worker.process.kill()
    extractor.worker.process.wait()
    second = extractor.extract(**following)
    extractor.close()

    assert (first.num_frames, second.num_frames) == (6, 8)
    assert len(list((tmp_path / "2").iterdir())) == 8


def test_an_announced_video_is_extracted_once(two_videos, tmp_path):
    extractor = Extractor()
    how = {"known": None, "size": TOY_SIZE, "every": 1, "quality": 95}
    following = {"video": two_videos.videos / "walk/b.avi", "folder": tmp_path / "2", **how}
    first = extractor.extract(two_videos.videos / "run/a.avi", tmp_path / "1", following=following, **how)
    pid = extractor.worker.process.pid
    second = extractor.extract(**following)  # given again, it would find its folder there, and fail
    third = extractor.extract(two_videos.videos / "run/a.avi", tmp_path / "3", **how)
    assert extractor.worker.process.pid == pid
    extractor.close()

    assert [result.num_frames for result in (first, second, third)] == [6, 8, 6]


def test_a_fault_of_the_worker_tells_its_last_words(two_videos, tmp_path):
    extractor = Extractor()
    result = extractor.extract(video=two_videos.videos / "run/a.avi", folder=tmp_path / "1", size=(0, 5))
    extractor.close()

    assert result.refused.startswith("the decoder crashed on it (") and "resize" in result.refused


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGTERM, 143, "Stopped by SIGTERM.\n"), (signal.SIGINT, 130, "Stopped by Ctrl-C.\n")],
)
def test_stopped_by_a_signal_it_ends_at_once_and_leaves_nothing_half_done(stuck, number, status, message):
    frames = stuck.frames_for(TOY_SIZE)
    process = start_cli("--dataset", stuck.videos, "--size", "80x60", "--workers", "2")
    partial = frames / PARTIAL_NAME
    wait_until(lambda: partial.exists() and partial.read_bytes().count(b"\n") == 3 and any(frames.glob(".partial/*/*")))
    workers = workers_of(process)
    assert workers

    process.send_signal(number)
    output, errors = process.communicate(timeout=20)

    assert (process.returncode, errors) == (status, message)
    assert output == "2 of 3 videos done; the same command continues.\n"
    assert not (frames / ".partial").exists()
    assert len(read_manifest(frames, PARTIAL_NAME)) == 2
    assert not any(worker.exists() for worker in workers)

    (stuck.videos / "run" / "stuck.avi").unlink()
    assert [row.num_frames for row in preprocess(stuck, SMALL)] == [6, 8]


@pytest.mark.slow
def test_workers_of_a_killed_run_do_not_write_into_the_next_one(stuck):
    """They live until they see that nobody listens; the folders that they still fill are not those of the new run."""
    temporary = stuck.frames_for(TOY_SIZE) / ".partial"

    def folders() -> set[Path]:
        with contextlib.suppress(FileNotFoundError):  # the next run deletes what the last one left
            return set(temporary.glob("*/*"))
        return set()

    def unfinished_folder_of_a_killed_run(others: set[Path]) -> Path:
        process = start_cli("--dataset", stuck.videos, "--size", "80x60", "--workers", "1")
        wait_until(lambda: folders() - others)
        process.kill()
        process.communicate()
        return next(iter(folders() - others))

    (stuck.videos / "run" / "a.avi").unlink()  # so that the stuck one is the first
    first = unfinished_folder_of_a_killed_run(set())
    second = unfinished_folder_of_a_killed_run({first})

    assert first.name == second.name == "0"
    assert first.parent != second.parent


@pytest.mark.parametrize(
    "wrong", [["--size", "80"], ["--size", "0x60"], ["--every", "0"], ["--quality", "101"], ["--x"]]
)
def test_bad_usage_exits_with_2(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(wrong)

    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(". python -m dataloaders.preprocess --help lists the flags.")


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.2, 0.6])
def test_killed_at_a_random_moment_it_ends_with_the_tree_of_an_undisturbed_run(
    toy_videos, toy_frames, tmp_path, fraction
):
    kill_and_go_on(toy_videos, tmp_path / "frames", [fraction], 2.0)

    assert contents(tmp_path / "frames") == contents(toy_frames)


@pytest.mark.slow
def test_killed_at_many_random_moments_it_ends_with_the_tree_of_an_undisturbed_run(toy_videos, tmp_path):
    """Trap 10: interrupted preprocessing taken for complete. Writes a line for each kill."""
    args = ("--dataset", toy_videos, "--size", "800x600", "--workers", "2", "--frames")
    start = time.monotonic()
    assert run_cli(*args, tmp_path / "whole")[0] == 0
    seconds = time.monotonic() - start
    random = np.random.default_rng(0)

    log = []
    for attempt in range(8):
        frames = tmp_path / f"killed{attempt}"
        log += kill_and_go_on(toy_videos, frames, random.uniform(0.2, 1, 3), seconds, "800x600")
        assert contents(frames) == contents(tmp_path / "whole"), log
    print("\n".join(log))  # pytest -s shows it
    assert len(log) == 24


def kill_and_go_on(videos: Path, frames: Path, fractions, seconds: float, size: str = "80x60") -> list[str]:
    """Kills a run after each of the fractions of the time that a whole one takes, and lets the last one end."""
    args = ("--dataset", videos, "--size", size, "--workers", "2", "--frames", frames)
    log = []
    for fraction in fractions:
        process = start_cli(*args)
        time.sleep(fraction * seconds)
        process.kill()
        process.communicate()
        num_rows = len(read_manifest(frames, PARTIAL_NAME)) if (frames / PARTIAL_NAME).exists() else 0
        state = "was done" if frames.is_dir() and is_complete(frames) else f"{num_rows} of 24 videos were done"
        log.append(f"killed after {fraction * seconds:.2f} s: {state}")
    assert run_cli(*args)[0] == 0
    return log


def damaged(content: bytes, how: str) -> bytes:
    lines = content.splitlines(keepends=True)
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "rows lost at the end":
        return b"".join(lines[:-3])
    if how == "edited":
        return content.replace(b",20,1,95,", b",19,1,95,", 1)
    if how == "column gone":
        return b"".join(line.partition(b",")[2] for line in lines)
    if how == "garbage":
        return bytes(range(256)) * 20
    if how == "garbage within":
        return content[:700] + b'\x00\xff"\n\n' + content[705:]
    if how == "rows twice":
        return content + lines[-1]
    if how == "empty":
        return b""
    raise ValueError(how)


@pytest.fixture(scope="module")
def own_toy(toy_videos, tmp_path_factory) -> DataSource:
    """Eight of the toy videos, and two files that are none."""
    videos = tmp_path_factory.mktemp("own") / "videos"
    shutil.copytree(toy_videos / "Biking", videos / "Biking")
    (videos / "Hammering").mkdir()
    shutil.copy(toy_videos / "Hammering" / "v_Hammering_g08_c01.avi", videos / "Hammering")
    whole = shutil.copy(toy_videos / "Hammering" / "v_Hammering_g09_c01.avi", videos / "Hammering")
    Path(whole).write_bytes(Path(whole).read_bytes()[:-9000])  # used in spite of damage
    (videos / "Hammering" / "v_Hammering_g09_c02.avi").write_text("no video")
    source = make_source(videos)
    preprocess(source, SMALL, workers=2)
    return source


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "rows lost at the end",
        "edited",
        "column gone",
        "garbage",
        "garbage within",
        "rows twice",
        "empty",
        "gone",
    ],
)
def test_a_damaged_manifest_is_noticed_and_rebuilt_to_the_same_bytes(own_toy, tmp_path, how, capsys):
    frames = tmp_path / "frames"
    shutil.copytree(own_toy.frames_for(TOY_SIZE), frames)
    source = DataSource("own", own_toy.videos, frames, layout="ucf101", frames_given=True)
    before = contents(frames)
    made = {path: path.stat().st_mtime_ns for path in frames.glob("*/*/*/*.jpg")}
    if how == "gone":
        (frames / NAME).unlink()
    else:
        (frames / NAME).write_bytes(damaged((frames / NAME).read_bytes(), how))
        with pytest.raises(DamagedManifest, match="is damaged: .* python -m dataloaders.preprocess"):
            read_manifest(frames)

    capsys.readouterr()
    ensure_frames(source, TOY_SIZE)  # as training does

    output = capsys.readouterr().out
    assert "rebuilt from the frames and the videos" in output
    assert contents(frames) == before
    assert made == {path: path.stat().st_mtime_ns for path in frames.glob("*/*/*/*.jpg")}  # compared, not made again
    if how in ("truncated", "garbage", "gone", "empty", "column gone"):
        assert "Rebuilt " in output and "1 file refused" in output


def test_a_folder_that_is_gone_and_one_that_lost_frames_are_noticed(own_toy, tmp_path, capsys):
    frames = tmp_path / "frames"
    shutil.copytree(own_toy.frames_for(TOY_SIZE), frames)
    source = DataSource("own", own_toy.videos, frames, layout="ucf101", frames_given=True)
    before = contents(frames)
    folders = sorted(frames.glob("*/Biking/*"))
    shutil.rmtree(folders[0])
    (folders[1] / "00020.jpg").unlink()

    preprocess(source, SMALL)

    assert "are extracted again: 2 videos" in capsys.readouterr().out
    assert contents(frames) == before


def test_a_damaged_manifest_does_not_let_other_settings_overwrite_the_frames(own_toy, tmp_path):
    frames = tmp_path / "frames"
    shutil.copytree(own_toy.frames_for(TOY_SIZE), frames)
    source = DataSource("own", own_toy.videos, frames, layout="ucf101", frames_given=True)
    (frames / NAME).write_text("garbage")
    before = {name: content for name, content in contents(frames).items() if not name.endswith(".csv")}

    with pytest.raises(UserError, match="differs from its video at 80x60, every 2"):
        preprocess(source, Settings(TOY_SIZE, every=2))
    assert {name: content for name, content in contents(frames).items() if not name.endswith(".csv")} == before


@pytest.mark.slow
def test_a_video_that_hangs_the_decoder_is_cut_off_and_refused(stuck):
    rows = {row.video: row for row in preprocess(stuck, SMALL, workers=1, limits=Limits(stall=1.5))}

    assert rows["run/stuck.avi"].reason == "the decoder yielded no frame for 2 s"
    assert [row.num_frames for row in rows.values() if row.status == "ok"] == [6, 8]


@pytest.mark.slow
def test_a_video_that_takes_far_too_long_for_its_size_is_cut_off_and_refused(two_videos):
    write_naming_video(two_videos.videos / "run" / "long.avi", 4000, size=(32, 32))

    limits = Limits(seconds=0.3, seconds_per_mb=0.0)
    rows = {row.video: row for row in preprocess(two_videos, Settings((1200, 900)), workers=1, limits=limits)}

    assert "decoding took more than 0 s, the limit for a video of" in rows["run/long.avi"].reason
    assert not list(two_videos.frames_for((1200, 900)).glob("*/run/long"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux")
def test_a_video_whose_frames_eat_memory_is_refused_and_the_run_goes_on(two_videos):
    """A picture of one colour compresses to next to nothing, whatever its size."""
    huge = np.zeros((8000, 8000, 3), np.uint8)
    write_video(two_videos.videos / "run" / "bomb.mov", [huge], codec="png", pix_fmt="rgb24")

    rows = {row.video: row for row in preprocess(two_videos, SMALL, workers=1, limits=Limits(memory=350 << 20))}

    assert rows["run/bomb.mov"].reason == "decoding needs more than 367 MB of memory, the limit for a video"
    assert [row.num_frames for row in rows.values() if row.status == "ok"] == [6, 8]
